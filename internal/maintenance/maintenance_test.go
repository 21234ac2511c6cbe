package maintenance

import (
	"encoding/json"
	"testing"
	"time"
)

// instant is a time of the week that begins with Sunday, 4 January 2026, in UTC.
func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse("Mon 2 Jan 15:04:05 2006", text+" 2026")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestWeeklyWindows(t *testing.T) {
	t.Parallel()
	weekend := `{"dow": [0, 6], "start_hour": 2, "end_hour": 4}`
	overnight := `{"dow": [6], "start_hour": 22, "end_hour": 4}`
	wholeDay := `{"dow": [1], "start_hour": 6, "end_hour": 6}`
	for _, test := range []struct {
		recurring, at string
		on            bool
	}{
		{weekend, "Sun 4 Jan 01:59:59", false},
		{weekend, "Sun 4 Jan 02:00:00", true},
		{weekend, "Sun 4 Jan 03:59:59", true},
		{weekend, "Sun 4 Jan 04:00:00", false},
		{weekend, "Mon 5 Jan 03:00:00", false},
		{weekend, "Sat 10 Jan 03:00:00", true},
		{overnight, "Sat 3 Jan 21:59:59", false},
		{overnight, "Sat 3 Jan 22:00:00", true},
		{overnight, "Sun 4 Jan 00:00:00", true},
		{overnight, "Sun 4 Jan 03:59:59", true},
		{overnight, "Sun 4 Jan 04:00:00", false},
		{overnight, "Sun 4 Jan 22:00:00", false},
		{overnight, "Sat 31 Jan 23:00:00", true},
		{overnight, "Sun 1 Feb 03:00:00", true}, // begun in another month
		{overnight, "Sat 10 Jan 03:00:00", false},
		{wholeDay, "Mon 5 Jan 05:59:59", false},
		{wholeDay, "Mon 5 Jan 06:00:00", true},
		{wholeDay, "Tue 6 Jan 05:59:59", true},
		{wholeDay, "Tue 6 Jan 06:00:00", false},
		{`{"start_hour": 2, "end_hour": 4}`, "Wed 7 Jan 02:00:00", true},
		{`{"dow": [], "start_hour": 2, "end_hour": 4}`, "Wed 7 Jan 03:00:00", true},
		{`{"dow": null, "start_hour": 2, "end_hour": 4}`, "Wed 7 Jan 04:00:00", false},
		{`{"dow": [3], "start_hour": 0, "end_hour": 24}`, "Wed 7 Jan 23:59:59", true},
		{`{"dow": [3], "start_hour": 0, "end_hour": 24}`, "Thu 8 Jan 00:00:00", false},
		{`{"dow": [3], "start_hour": 23, "end_hour": 0}`, "Wed 7 Jan 23:30:00", true},
		{`{"dow": [3], "start_hour": 23, "end_hour": 0}`, "Thu 8 Jan 00:00:00", false},
	} {
		weekly, fault := readWeekly(json.RawMessage(test.recurring))
		if fault != "" || weekly == nil {
			t.Fatalf("%s: %s", test.recurring, fault)
		}
		at := instant(t, test.at)
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("east", 14*3600), time.FixedZone("west", -12*3600)} {
			if on := (Window{Weekly: weekly}).On(at.In(zone)); on != test.on {
				t.Errorf("%s at %s in %s: %t", test.recurring, test.at, zone, on)
			}
		}
	}
}

func TestStartsAndEndsBoundAWindow(t *testing.T) {
	t.Parallel()
	starts, ends := instant(t, "Mon 5 Jan 12:00:00"), instant(t, "Wed 7 Jan 12:00:00")
	daily := &Weekly{StartHour: 11, EndHour: 13}
	for _, test := range []struct {
		window Window
		at     string
		on     bool
	}{
		{Window{Starts: starts, Ends: ends}, "Mon 5 Jan 11:59:59", false},
		{Window{Starts: starts, Ends: ends}, "Mon 5 Jan 12:00:00", true},
		{Window{Starts: starts, Ends: ends}, "Wed 7 Jan 11:59:59", true},
		{Window{Starts: starts, Ends: ends}, "Wed 7 Jan 12:00:00", false},
		{Window{Starts: starts}, "Fri 31 Jul 12:00:00", true}, // open end
		{Window{Starts: starts}, "Sun 4 Jan 12:00:00", false},
		{Window{Starts: starts, Fault: "unreadable"}, "Tue 6 Jan 12:00:00", false},
		{Window{Starts: starts, Ends: ends, Weekly: daily}, "Mon 5 Jan 11:30:00", false},
		{Window{Starts: starts, Ends: ends, Weekly: daily}, "Mon 5 Jan 12:30:00", true},
		{Window{Starts: starts, Ends: ends, Weekly: daily}, "Tue 6 Jan 13:30:00", false},
		{Window{Starts: starts, Ends: ends, Weekly: daily}, "Wed 7 Jan 11:30:00", true},
		{Window{Starts: starts, Ends: ends, Weekly: daily}, "Wed 7 Jan 12:30:00", false},
	} {
		if on := test.window.On(instant(t, test.at)); on != test.on {
			t.Errorf("%s at %s: %t", test.window.When(), test.at, on)
		}
	}
}

func TestWhatIsNoWeeklyWindowSaysSo(t *testing.T) {
	t.Parallel()
	for _, recurring := range []string{`{}`, `[]`, `5`, `"x"`, `{"dow": [0]}`, `{"start_hour": 2}`, `{"end_hour": 2}`,
		`{"start_hour": null, "end_hour": 4}`, `{"start_hour": "2", "end_hour": 4}`, `{"start_hour": 2.5, "end_hour": 4}`,
		`{"start_hour": 24, "end_hour": 4}`, `{"start_hour": 2, "end_hour": 25}`, `{"start_hour": -1, "end_hour": 4}`,
		`{"dow": [7], "start_hour": 2, "end_hour": 4}`, `{"dow": [-1], "start_hour": 2, "end_hour": 4}`, `{"dow": "Sunday", "start_hour": 2, "end_hour": 4}`} {
		if weekly, fault := readWeekly(json.RawMessage(recurring)); weekly != nil || fault == "" {
			t.Errorf("%s is read as %v, %q", recurring, weekly, fault)
		}
	}
	for _, recurring := range []string{"", "null"} {
		if weekly, fault := readWeekly(json.RawMessage(recurring)); weekly != nil || fault != "" {
			t.Errorf("%q is read as %v, %q", recurring, weekly, fault)
		}
	}
}

func TestTheWindowOfAService(t *testing.T) {
	t.Parallel()
	noon := instant(t, "Mon 5 Jan 12:00:00")
	windows := Windows{
		{ID: "over", Ends: noon},
		{ID: "unreadable", Fault: "x"},
		{ID: "to come", Starts: noon.Add(time.Second)},
		{ID: "some", Services: []string{"ingest", "mqtt"}},
	}
	for service, want := range map[string]string{"ingest": "some", "mqtt": "some", "evaluator": "", "": ""} {
		if w, ok := windows.At(service, noon); w.ID != want || ok != (want != "") {
			t.Errorf("%q: %q, %t", service, w.ID, ok)
		}
	}
	if w, ok := append(windows, Window{ID: "all"}).At("evaluator", noon); w.ID != "all" || !ok {
		t.Errorf("evaluator: %q, %t", w.ID, ok)
	}
}

func TestWindowsInWords(t *testing.T) {
	t.Parallel()
	starts := instant(t, "Mon 5 Jan 12:00:00")
	for want, w := range map[string]Window{
		"from 2026-01-05 12:00:00 UTC":                                                             {Starts: starts},
		"from 2026-01-05 12:00:00 UTC until 2026-01-05 13:00:00 UTC":                               {Starts: starts, Ends: starts.Add(time.Hour)},
		"Sunday Saturday 22:00 to 04:00 UTC, from 2026-01-05 12:00:00 UTC":                         {Starts: starts, Weekly: &Weekly{[]time.Weekday{0, 6}, 22, 4}},
		"every day 02:00 to 24:00 UTC, from 2026-01-05 12:00:00 UTC until 2026-01-05 13:00:00 UTC": {Starts: starts, Ends: starts.Add(time.Hour), Weekly: &Weekly{StartHour: 2, EndHour: 24}},
	} {
		if got := w.When(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
