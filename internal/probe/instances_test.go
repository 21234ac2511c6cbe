package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"ops_worker/internal/certtest"
	"ops_worker/internal/config"
	"ops_worker/internal/logtest"
)

// records answers look-ups from what a test sets.
type records struct {
	mu     sync.Mutex
	answer func(ctx context.Context, host string) ([]string, error)
}

func (r *records) set(addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = func(context.Context, string) ([]string, error) { return addresses, nil }
}

func (r *records) fail(answer func(ctx context.Context, host string) ([]string, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *records) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	answer := r.answer
	r.mu.Unlock()
	texts, err := answer(ctx, host)
	var addresses []netip.Addr
	for _, text := range texts {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	return addresses, err
}

// pass lets time pass in a synctest bubble, where nobody waits for it.
func pass(d time.Duration) { time.Sleep(d) }

// asked are the addresses of a target's instances.
func asked(t Target) []string {
	var list []string
	for _, i := range t.instances() {
		list = append(list, i.Address)
	}
	return list
}

func resolving(r Resolver, services ...config.Service) (*Client, []Target) {
	client := NewClient(config.Config{Instances: true})
	client.Resolver = r
	return client, Targets(services, client, nil)
}

var ingest = config.Service{Name: "ingest", Addresses: []string{"http://ingest:8080/health"}}

func TestANameWithSeveralRecordsIsSeveralInstances(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		addresses []string
		records   []string
		want      []string
	}{
		"one record":              {ingest.Addresses, []string{"10.0.0.1"}, []string{"ingest:8080"}},
		"two":                     {ingest.Addresses, []string{"10.0.0.2", "10.0.0.1"}, []string{"10.0.0.1:8080", "10.0.0.2:8080"}},
		"the same twice":          {ingest.Addresses, []string{"10.0.0.1", "::ffff:10.0.0.1"}, []string{"ingest:8080"}},
		"two families":            {ingest.Addresses, []string{"fd00::1", "10.0.0.1", "fd00::2"}, []string{"ingest:8080"}},
		"IPv6 alone":              {ingest.Addresses, []string{"fd00::2", "fd00::1"}, []string{"[fd00::1]:8080", "[fd00::2]:8080"}},
		"none":                    {ingest.Addresses, nil, []string{"ingest:8080"}},
		"a list":                  {[]string{"http://a", "https://b"}, []string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:443", "10.0.0.2:443"}},
		"an address is no name":   {[]string{"http://127.0.0.1:1"}, []string{"10.0.0.1", "10.0.0.2"}, []string{"127.0.0.1:1"}},
		"a user is not told":      {[]string{"http://u:hunter2@a:1"}, []string{"10.0.0.1"}, []string{"a:1"}},
		"an address of IPv6 also": {[]string{"http://[::1]:1"}, []string{"10.0.0.1", "10.0.0.2"}, []string{"[::1]:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r records
			r.set(test.records...)
			client, targets := resolving(&r, config.Service{Addresses: test.addresses})
			client.FindInstances(t.Context(), zerolog.Nop())
			if diff := cmp.Diff(test.want, asked(targets[0])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheBrokersNameToo(t *testing.T) {
	t.Parallel()
	var r records
	r.set("10.0.0.1", "10.0.0.2")
	client, targets := resolving(&r, config.Service{Kind: config.ProbeTCP, Addresses: []string{"mqtt:1883"}})
	client.FindInstances(t.Context(), zerolog.Nop())
	if diff := cmp.Diff([]string{"10.0.0.1:1883", "10.0.0.2:1883"}, asked(targets[0])); diff != "" {
		t.Error(diff)
	}
}

var (
	noSuchHost = func(context.Context, string) ([]string, error) {
		return nil, &net.DNSError{Err: "no such host", Name: "ingest", Server: "10.9.9.9:53", IsNotFound: true}
	}
	refusing = func(context.Context, string) ([]string, error) {
		return nil, &net.DNSError{Err: "server misbehaving", Name: "ingest", Server: "10.9.9.9:53", IsTemporary: true}
	}
	hanging = func(ctx context.Context, _ string) ([]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
)

// The look-ups go on beside the cycles: the first answer is not waited for, a name
// server that fails or hangs changes nothing, and what is gone is not asked.
func TestNamesAreLookedUpBesideTheCycles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r records
		r.fail(hanging)
		client, targets := resolving(&r, ingest)
		var log logtest.Log
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { client.KeepInstances(ctx, log.Logger()) })
		want := func(after time.Duration, addresses ...string) {
			t.Helper()
			pass(after)
			synctest.Wait()
			if diff := cmp.Diff(addresses, asked(targets[0])); diff != "" {
				t.Errorf("after %s: %s", after, diff)
			}
		}
		want(0, "ingest:8080")
		r.set("10.0.0.1", "10.0.0.2", "10.0.0.3")
		want(lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		for range 3 { // of which no two find no such host in a row
			r.fail(noSuchHost)
			want(lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
			r.fail(refusing)
			want(lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		}
		r.fail(hanging)
		want(4*lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		r.set() // which is no answer
		want(lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		r.set("10.0.0.3", "10.0.0.2")
		want(lookupInterval, "10.0.0.2:8080", "10.0.0.3:8080")
		r.fail(noSuchHost)
		want(lookupInterval, "10.0.0.2:8080", "10.0.0.3:8080")
		want(lookupInterval, "ingest:8080")
		r.set("10.0.0.2")
		want(2*time.Minute, "ingest:8080")
		// The second one reminds of it, after a minute.
		bad, well := log.Lines(t, lookupFails), log.Lines(t, lookupSucceeds)
		if len(bad) != 2 || bad[0]["error"] != "no such host" || fmt.Sprint(bad[0]["names"]) != "[ingest]" || len(well) != 1 {
			t.Errorf("log: %v, %v", bad, well)
		}
		cancel()
		running.Wait()
	})
}

// Whatever the name server does, one line says it, not one for each name.
func TestANameServerThatIsGoneIsOneLine(t *testing.T) {
	t.Parallel()
	var r records
	r.set("10.0.0.1")
	var services []config.Service
	for i := range config.MaxExtra {
		services = append(services, config.Service{Addresses: []string{fmt.Sprintf("http://s%03d:1", i)}, Extra: true})
	}
	client, _ := resolving(&r, services...)
	var log logtest.Log
	client.FindInstances(t.Context(), log.Logger())
	r.fail(refusing)
	client.FindInstances(t.Context(), log.Logger())
	lines := log.Lines(t, lookupFails)
	if len(lines) != 1 || !strings.HasPrefix(fmt.Sprint(lines[0]["names"]), "[s000 s001") || !strings.Contains(fmt.Sprint(lines[0]["names"]), "and 240 more") {
		t.Errorf("log: %v", lines)
	}
}

func TestTheInstancesAreBounded(t *testing.T) {
	t.Parallel()
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.%d.%d", 1-i/256, i%256)
	}
	var r records
	r.set(many...)
	client, targets := resolving(&r, ingest)
	var log logtest.Log
	for range 3 {
		client.FindInstances(t.Context(), log.Logger())
	}
	if got := asked(targets[0]); len(got) != config.MaxInstances || !slices.Equal(got[:2], []string{"10.0.0.0:8080", "10.0.0.1:8080"}) {
		t.Errorf("%d instances are asked, the first are %s", len(got), got[:2])
	}
	if lines := log.Lines(t, tooMany); len(lines) != 1 || lines[0]["error"] != "ingest has 300 instances, at most 256 are asked" {
		t.Errorf("log: %v", lines)
	}
}

// serving is a service at one or more addresses, at the same port, that says which one
// it is.
func serving(t *testing.T, addresses ...string) (port string, stop map[string]func()) {
	t.Helper()
	stop = map[string]func(){}
	for i, listener := range listening(t, addresses) {
		_, port, _ = net.SplitHostPort(listener.Addr().String())
		_, last, _ := strings.Cut(addresses[i], "127.0.0.")
		server := httptest.NewUnstartedServer(body(fmt.Sprintf(`{"counters":{"at":%s}}`, last)))
		server.Listener.Close()
		server.Listener = listener
		server.Start()
		t.Cleanup(server.Close)
		stop[addresses[i]] = server.Close
	}
	return port, stop
}

// listening listens at addresses at a port that is free at all of them.
func listening(t *testing.T, addresses []string) (listeners []net.Listener) {
	t.Helper()
	for range 20 {
		port := "0"
		for _, address := range addresses {
			listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
			if err != nil {
				break
			}
			_, port, _ = net.SplitHostPort(listener.Addr().String())
			listeners = append(listeners, listener)
		}
		if len(listeners) == len(addresses) {
			return listeners
		}
		for _, l := range listeners {
			l.Close()
		}
		listeners = nil
	}
	t.Fatal("no port is free at every address")
	return nil
}

// A service is asked at the last known addresses of its name, whatever becomes of the
// name server; a name that moves is followed; and one that is no more has no addresses,
// since they may be a stranger's. That goes for a name of one record and of many, for
// services of the platform and others, and with INSTANCES=off.
func TestANameIsDialledAtItsLastKnownAddresses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		service   config.Service
		instances bool
	}{
		"of the platform": {config.Service{}, true},
		"INSTANCES=off":   {config.Service{}, false},
		"extra":           {config.Service{Extra: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, _ := serving(t, "127.0.0.11", "127.0.0.12")
			var r records
			test.service.Addresses = []string{"http://moving.example:" + port}
			client := NewClient(config.Config{Instances: test.instances})
			client.Resolver = &r
			target := Targets([]config.Service{test.service}, client, nil)[0]
			want := func(what string, status Status, at float64, reason string) {
				t.Helper()
				client.FindInstances(t.Context(), zerolog.Nop())
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				o := Observe(ctx, []Target{target}, time.Minute)[0]
				if o.Status != status || o.Counters["at"] != at || o.Err != reason {
					t.Errorf("%s: %+v", what, o.Reading)
				}
			}
			r.set("127.0.0.11")
			want("at first", Healthy, 11, "")
			r.fail(refusing)
			want("without a name server", Healthy, 11, "")
			r.fail(noSuchHost)
			want("no such host, once", Healthy, 11, "")
			r.set("127.0.0.12")
			want("it has moved", Healthy, 12, "")
			r.set("127.0.0.12", "127.0.0.11")
			client.FindInstances(t.Context(), zerolog.Nop())
			if n, spread := len(asked(target)), test.instances && !test.service.Extra; (n == 2) != spread {
				t.Errorf("two addresses are %d instances", n)
			}
			r.set("127.0.0.12")
			want("one again", Healthy, 12, "")
			r.fail(noSuchHost)
			want("no such host", Healthy, 12, "")
			want("no such host again", Down, 0, "no such host")
			r.set("127.0.0.11")
			want("it is back", Healthy, 11, "")
		})
	}
}

// Before a look-up has answered a probe looks the name up itself.
func TestAProbeBeforeTheFirstLookUp(t *testing.T) {
	t.Parallel()
	port, _ := serving(t, "127.0.0.11")
	var r records
	r.set("127.0.0.11")
	_, targets := resolving(&r, config.Service{Addresses: []string{"http://a.example:" + port}}, config.Service{Kind: config.ProbeTCP, Addresses: []string{"b.example:" + port}})
	for _, o := range Observe(t.Context(), targets, Timeout) {
		if o.Status != Healthy {
			t.Errorf("%+v", o)
		}
	}
}

// A name that two look-ups in a row do not find does not exist: its service is down. A name
// server that fails says nothing of it.
func TestANameThatDoesNotExistIsDown(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]config.Service{
		"http": {Addresses: []string{"http://a.example:8080"}},
		"tcp":  {Kind: config.ProbeTCP, Addresses: []string{"a.example:1883"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r records
			_, targets := resolving(&r, address)
			for i, step := range []struct {
				answer func(context.Context, string) ([]string, error)
				status Status
				err    string
			}{
				{noSuchHost, Unknown, "no such host"},
				{refusing, Unknown, "server misbehaving"},
				{noSuchHost, Unknown, "no such host"},
				{noSuchHost, Down, "no such host"},
				{noSuchHost, Down, "no such host"},
				{refusing, Unknown, "server misbehaving"},
			} {
				r.fail(step.answer)
				if o := Observe(t.Context(), targets, Timeout)[0]; o.Status != step.status || o.Err != step.err || o.Reason() != step.err {
					t.Errorf("look-up %d: %+v", i+1, o.Reading)
				}
			}
		})
	}
}

// One that is not several instances is dialled at its addresses in turn: here at those
// of a broker too, and at one that swallows what is sent there.
func TestTheAddressesOfOneInstanceAreDialledInTurn(t *testing.T) {
	t.Parallel()
	port, stop := serving(t, "127.0.0.11", "127.0.0.12")
	var r records
	r.set("::1", "127.0.0.13", "127.0.0.12", "127.0.0.11")
	client, targets := resolving(&r,
		config.Service{Addresses: []string{"http://a.example:" + port}, Extra: true},
		config.Service{Kind: config.ProbeTCP, Addresses: []string{"b.example:" + port}, Extra: true})
	client.FindInstances(t.Context(), zerolog.Nop())
	if got := asked(targets[0]); !slices.Equal(got, []string{"a.example:" + port}) {
		t.Errorf("an extra service's instances: %s", got)
	}
	for i, address := range []string{"", "127.0.0.11"} {
		want := float64(11 + i)
		if stop[address] != nil {
			stop[address]()
		}
		observations := Observe(t.Context(), targets, Timeout)
		if o := observations[0]; o.Status != Healthy || o.Counters["at"] != want {
			t.Errorf("without %q: %+v", address, o)
		}
		if o := observations[1]; o.Status != Healthy {
			t.Errorf("without %q: %+v", address, o)
		}
		if want == 11 {
			continue
		}
		stop["127.0.0.12"]()
		if o := Observe(t.Context(), targets, Timeout)[0]; o.Status != Down {
			t.Errorf("without any: %+v", o)
		}
	}
}

// An address that swallows what is sent there costs its share of the time.
func TestEachAddressHasItsShareOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		for _, n := range []time.Duration{4, 3, 2, 1} {
			attempt, done := shareOf(ctx, int(n))
			<-attempt.Done()
			done()
			deadline, _ := ctx.Deadline()
			if left := time.Until(deadline); left != (n-1)*time.Second {
				t.Errorf("after %d of 4: %s are left", 5-n, left)
			}
		}
	})
}

// An instance is asked at its address, under the name's name: in the Host header,
// in TLS, and with what the URL carries besides.
func TestAnInstanceIsAskedUnderTheNamesName(t *testing.T) {
	t.Parallel()
	authority := certtest.New(t)
	pair := authority.Issue("ingest.example", time.Hour)
	var mu sync.Mutex
	seen := map[string]bool{}
	port := ""
	for _, address := range []string{"127.0.0.11", "127.0.0.12"} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, _, _ := r.BasicAuth()
			mu.Lock()
			defer mu.Unlock()
			seen[strings.Join([]string{address, r.Host, r.TLS.ServerName, r.URL.Path, user}, " ")] = true
			fmt.Fprintf(w, `{"counters":{"n":%d}}`, len(address))
		}))
		listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(listener.Addr().String())
		server.Listener.Close()
		server.Listener = listener
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair.Load(t)}}
		server.StartTLS()
		t.Cleanup(server.Close)
	}
	cfg, err := config.FromEnvironment([]string{"HEALTH_CA_FILE=" + authority.File, "INGEST_HEALTH_URL=https://u:p@ingest.example:" + port + "/base"})
	if err != nil {
		t.Fatal(err)
	}
	var r records
	r.set("127.0.0.11", "127.0.0.12")
	client := NewClient(cfg)
	client.Resolver = &r
	targets := Targets(cfg.Services[:1], client, nil)
	client.FindInstances(t.Context(), zerolog.Nop())
	var keys []string
	for range 3 {
		o := Observe(t.Context(), targets, Timeout)[0]
		if o.Status != Healthy || o.HTTPStatus != 200 || o.Latency <= 0 || o.Counters["n"] != 20 {
			t.Fatalf("%+v", o)
		}
		keys = []string{o.Instances[0].Key, o.Instances[1].Key}
	}
	if diff := cmp.Diff([]string{"0 127.0.0.11:" + port, "0 127.0.0.12:" + port}, keys); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]bool{
		"127.0.0.11 ingest.example:" + port + " ingest.example /base/health u": true,
		"127.0.0.12 ingest.example:" + port + " ingest.example /base/health u": true,
	}, seen); diff != "" {
		t.Error(diff)
	}
}

// An instance that hangs costs itself: a thousand of them keep none waiting.
func TestNoInstanceWaitsForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context) Reading {
			<-ctx.Done()
			return Reading{Status: Unknown, Err: "no answer"}
		}
		well := func(ctx context.Context) Reading {
			if ctx.Err() != nil {
				return Reading{Status: Unknown, Err: "too late"}
			}
			return Reading{Status: Healthy}
		}
		instances := slices.Repeat([]Instance{{Probe: silent}}, 1500)
		instances = append(instances, Instance{Probe: well})
		begin := time.Now()
		o := Observe(t.Context(), []Target{{Instances: func() []Instance { return instances }}}, Timeout)[0]
		if took := time.Since(begin); took != Timeout || o.Healthy() != 1 {
			t.Errorf("took %s, %d are healthy", took, o.Healthy())
		}
	})
}

func TestWhatInstancesAreTogether(t *testing.T) {
	t.Parallel()
	well := Reading{Status: Healthy, HTTPStatus: 200, Latency: 2, Counters: map[string]float64{"n": 3}}
	slow := Reading{Status: Healthy, HTTPStatus: 200, Latency: 9, Counters: map[string]float64{"n": 4}}
	ill := Reading{Status: Degraded, HTTPStatus: 503, Latency: 5}
	down := Reading{Status: Down, Err: "connection refused"}
	unknown := Reading{Status: Unknown, Err: "no such host"}
	for name, test := range map[string]struct {
		readings []Reading
		want     Reading
		up       bool
		reason   string
	}{
		"one":              {[]Reading{ill}, ill, false, "HTTP 503"},
		"all well":         {[]Reading{well, slow}, Reading{Status: Healthy, HTTPStatus: 200, Latency: 9, Counters: map[string]float64{"n": 7}}, true, "healthy"},
		"half":             {[]Reading{well, down}, Reading{Status: Degraded, Latency: 2, Err: "1 of 2 instances: connection refused"}, true, "1 of 2 instances: connection refused"},
		"fewer than half":  {[]Reading{down, well, ill}, Reading{Status: Degraded, Latency: 5, Err: "2 of 3 instances: HTTP 503"}, false, "2 of 3 instances: HTTP 503"},
		"none":             {[]Reading{down, down}, Reading{Status: Down, Err: "2 of 2 instances: connection refused"}, false, "2 of 2 instances: connection refused"},
		"none, and why":    {[]Reading{unknown, down}, Reading{Status: Down, Err: "2 of 2 instances: connection refused"}, false, "2 of 2 instances: connection refused"},
		"none, of unknown": {[]Reading{unknown, unknown}, Reading{Status: Unknown, Err: "2 of 2 instances: no such host"}, false, "2 of 2 instances: no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var instances []InstanceReading
			for _, r := range test.readings {
				instances = append(instances, InstanceReading{Reading: r})
			}
			o := merge("s", instances)
			if diff := cmp.Diff(test.want, o.Reading); diff != "" {
				t.Error(diff)
			}
			if o.Up() != test.up || o.Reason() != test.reason {
				t.Errorf("up %t, reason %q", o.Up(), o.Reason())
			}
		})
	}
}

func TestALookUpsErrorTellsNothingOfTheNetwork(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"no such host": &net.DNSError{Err: "no such host", Server: "10.9.9.9:53", IsNotFound: true},
		"i/o timeout":  &net.DNSError{Err: "i/o timeout", Server: "10.9.9.9:53", IsTimeout: true},
		"refused":      errors.New("refused"),
	} {
		if got := plainCause(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A panic in the look-up of one name costs no other one, and never the process.
func TestALookUpThatPanics(t *testing.T) {
	var log logtest.Log
	r := &records{answer: func(_ context.Context, host string) ([]string, error) {
		if host == "ingest" {
			panic("at " + host)
		}
		return []string{"127.0.0.1", "127.0.0.2"}, nil
	}}
	client, targets := resolving(r, ingest, config.Service{Name: "evaluator", Addresses: []string{"http://evaluator:8080/health"}})
	client.FindInstances(t.Context(), log.Logger())
	if got := asked(targets[1]); len(got) != 2 {
		t.Errorf("the other name: %v", got)
	}
	if len(log.Lines(t, "panic")) != 1 {
		t.Errorf("log: %s", log.String())
	}
}

// Nor does one under net/http, which dials in a goroutine of its own.
func TestADialThatPanics(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		var log logtest.Log
		r := &records{answer: func(context.Context, string) ([]string, error) { panic("at the name") }}
		_, targets := resolving(r, config.Service{Name: "ingest", Addresses: []string{scheme + "://ingest:8080/health"}})
		ctx := log.Logger().WithContext(t.Context())
		if o := Observe(ctx, targets, Timeout)[0]; o.Status == Healthy || !strings.Contains(o.Err, "panic: at the name") {
			t.Errorf("%s: %+v", scheme, o)
		}
		if len(log.Lines(t, "panic")) != 1 {
			t.Errorf("log: %s", log.String())
		}
	}
}
