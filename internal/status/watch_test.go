package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func screen() (width, height int) { return 80, 8 }

func tall() (width, height int) { return 80, 80 }

// pages runs watch for some time, and returns what it printed, page by page.
func pages(t *testing.T, runs time.Duration, read func(context.Context) (Report, error)) []string {
	t.Helper()
	return pagesOn(t, screen, runs, read)
}

func pagesOn(t *testing.T, size func() (int, int), runs time.Duration, read func(context.Context) (Report, error)) (pages []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), runs)
		defer cancel()
		var out bytes.Buffer
		if err := watch(ctx, read, &out, size, false, 5*time.Second); err != nil {
			t.Error(err)
		}
		pages = strings.Split(out.String(), clearScreen)[1:]
	})
	return pages
}

func TestWatchPrintsAPageAgainAndAgain(t *testing.T) {
	t.Parallel()
	got := pages(t, 12*time.Second, func(context.Context) (Report, error) { return reportOf(stages["well"]), nil })
	if len(got) != 3 {
		t.Errorf("%d pages in 12 s, want 3", len(got))
	}
	if n := strings.Count(got[0], "\r\n"); n != 7 || !strings.HasPrefix(got[0], "ops-worker status") {
		t.Errorf("%d lines on a screen of 8:\n%s", n, got[0])
	}
}

// The availability is read once a minute, and shown on every page.
func TestWatchReadsTheAvailabilityOnceAMinute(t *testing.T) {
	t.Parallel()
	var readAt []int // pages
	reading := 0
	read := func(_ context.Context, leaveOut ...Section) (Report, error) {
		reading++
		if reading == 1 || reading == 15 { // what fails is tried again
			return Report{}, errors.New("away")
		}
		report := reportOf(stages["well"])
		if slices.Contains(leaveOut, AvailabilitySection) {
			report.Availability = []Availability{}
			return report, nil
		}
		readAt = append(readAt, reading)
		report.Availability[0].Service = fmt.Sprintf("of page %d.", reading)
		if reading > 20 {
			report.Availability, report.Unreadable[AvailabilitySection] = nil, fmt.Sprintf("of page %d.", reading)
		}
		return report, nil
	}
	got := pagesOn(t, tall, 132*time.Second, sparing(read))
	if want := []int{2, 14, 26}; !slices.Equal(readAt, want) {
		t.Errorf("read for the pages %v, want %v", readAt, want)
	}
	for i, page := range got {
		if i == 0 || i == 14 { // away
			continue
		}
		if want := fmt.Sprintf("of page %d.", 2+(i-1)/12*12); !strings.Contains(page, want) {
			t.Errorf("page %d has no availability %q:\n%s", i+1, want, page)
		}
	}
	if len(got) != 27 {
		t.Errorf("%d pages", len(got))
	}
}

// While the database is away the last reading stays, with its age, and the next one
// that succeeds replaces it.
func TestWatchWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	readings := 0
	got := pages(t, 17*time.Second, func(context.Context) (Report, error) {
		if readings++; readings == 1 || readings == 3 {
			return Report{}, errors.New("connection refused: \x1b[2J")
		}
		return reportOf(stages["well"]), nil
	})
	for i, want := range []string{
		"! connection refused: [2J\r\nnothing has been read yet\r\n",
		"ops-worker status",
		"! connection refused: [2J\r\n! this was read 5s ago\r\nops-worker status",
		"ops-worker status",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("page %d of %q does not begin with %q", i, got, want)
		}
	}
}

func TestWatchEndsWhileItReads(t *testing.T) {
	t.Parallel()
	got := pages(t, time.Second, func(ctx context.Context) (Report, error) {
		<-ctx.Done()
		return Report{}, ctx.Err()
	})
	if len(got) != 0 {
		t.Errorf("it printed %q", got)
	}
}

func TestAKeyEndsTheWatch(t *testing.T) {
	t.Parallel()
	for pressed, left := range map[string]string{"\x1b[Bqrest": "rest", "\x03": "", "": ""} {
		keys, quit := strings.NewReader(pressed), false
		untilQuit(keys, func() { quit = true })
		if rest, _ := io.ReadAll(keys); !quit || string(rest) != left {
			t.Errorf("%q: quit %t, not read %q", pressed, quit, rest)
		}
	}
}
