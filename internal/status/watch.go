package status

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// clearScreen moves the cursor to the top and clears what is below it.
const clearScreen = "\x1b[H\x1b[2J"

// availabilityEvery is how often Watch reads the availability, which changes slowly and
// costs the most where there were many alerts.
const availabilityEvery = time.Minute

// ReadFunc is Reader.Read.
type ReadFunc func(ctx context.Context, leaveOut ...Section) (Report, error)

// Watch prints a report every so often on a terminal, until q or Ctrl-C is pressed or
// ctx ends. While the database is away, the newest report stays, with its age.
func Watch(ctx context.Context, read ReadFunc, in, out *os.File, colour bool, every time.Duration) error {
	before, err := term.MakeRaw(int(in.Fd())) // so that a key comes without Enter
	if err != nil {
		return fmt.Errorf("--watch: %w", err)
	}
	defer func() { _ = term.Restore(int(in.Fd()), before) }()
	size := func() (width, height int) {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width < 1 {
			return 80, 24
		}
		return width, height
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go untilQuit(in, cancel)
	return watch(ctx, sparing(read), out, size, colour, every)
}

// sparing reads the availability every availabilityEvery, and keeps it meanwhile.
func sparing(read ReadFunc) func(context.Context) (Report, error) {
	var kept Report
	var keptAt time.Time
	return func(ctx context.Context) (Report, error) {
		if time.Since(keptAt) < availabilityEvery {
			report, err := read(ctx, AvailabilitySection)
			if err == nil {
				report.Availability = kept.Availability
				if reason := kept.Unreadable[AvailabilitySection]; reason != "" {
					report.Unreadable[AvailabilitySection] = reason
				}
			}
			return report, err
		}
		report, err := read(ctx)
		if err == nil {
			kept, keptAt = report, time.Now()
		}
		return report, err
	}
}

// untilQuit waits for q, Ctrl-C or the end of the keys.
func untilQuit(keys io.Reader, quit func()) {
	defer quit()
	key := make([]byte, 1)
	for {
		if _, err := keys.Read(key); err != nil || key[0] == 'q' || key[0] == 3 {
			return
		}
	}
}

func watch(ctx context.Context, read func(context.Context) (Report, error), out io.Writer, size func() (int, int), colour bool, every time.Duration) error {
	lines, readAt := []line{{{text: "nothing has been read yet"}}}, time.Time{}
	for {
		width, height := size()
		report, err := read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var head []line
		if err == nil {
			lines, readAt = report.lines(width), time.Now()
		} else {
			head = []line{{{"! " + clean(err.Error()), alarm}}}
			if !readAt.IsZero() {
				head = append(head, line{{fmt.Sprintf("! this was read %s ago", ago(time.Since(readAt))), alarm}})
			}
		}
		page := clearScreen
		for _, l := range append(head, lines...)[:min(len(head)+len(lines), max(1, height-1))] {
			page += l.render(width, colour) + "\r\n" // a raw terminal does not add the return
		}
		if _, err := io.WriteString(out, page); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}
