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
	client := NewClient(nil)
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

// The look-ups go on beside the cycles: the first answer is not waited for, a
// look-up that fails or hangs changes nothing, and what is gone is not asked.
func TestNamesAreLookedUpBesideTheCycles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r records
		hang := func(ctx context.Context, _ string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		r.fail(hang)
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
		r.fail(func(context.Context, string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "ingest", Server: "10.9.9.9:53", IsNotFound: true}
		})
		want(2*lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		r.fail(hang)
		want(2*lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		r.set() // which is no answer
		want(lookupInterval, "10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
		r.set("10.0.0.3", "10.0.0.2")
		want(lookupInterval, "10.0.0.2:8080", "10.0.0.3:8080")
		r.set("10.0.0.2")
		want(2*time.Minute, "ingest:8080")
		bad, well := log.Lines(t, lookupFails), log.Lines(t, lookupSucceeds)
		if len(bad) != 1 || bad[0]["error"] != "no such host" || bad[0]["name"] != "ingest" || len(well) != 1 {
			t.Errorf("log: %v, %v", bad, well)
		}
		cancel()
		running.Wait()
	})
}

func TestTheInstancesAreBounded(t *testing.T) {
	t.Parallel()
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.%d.%d", 1-i/256, i%256)
	}
	var r records
	r.set(many...)
	services := make([]config.Service, 10)
	for i := range services {
		services[i] = config.Service{Addresses: []string{fmt.Sprintf("http://s%d:1", i)}, AllCounters: true}
	}
	services = append(services, ingest)
	client, targets := resolving(&r, services...)
	var log logtest.Log
	for range 3 {
		client.FindInstances(t.Context(), log.Logger())
	}
	var counts []int
	total := 0
	for _, target := range targets[:10] {
		counts = append(counts, len(asked(target)))
		total += len(asked(target))
	}
	if counts[0] != config.MaxInstances || counts[9] < 1 || total != config.MaxExtra || len(asked(targets[10])) != config.MaxInstances {
		t.Errorf("%v instances are asked", counts)
	}
	if first := asked(targets[0])[:2]; !slices.Equal(first, []string{"10.0.0.0:1", "10.0.0.1:1"}) {
		t.Errorf("the first are %s", first)
	}
	if n := len(log.Lines(t, "too many instances, the last ones by address are not asked")); n != 1 {
		t.Errorf("%d lines say so", n)
	}
}

// A name server is asked for so many names a second, however many services there
// are; those of the platform have a look-up in every interval.
func TestThousandsOfNamesAreLookedUpInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		lookups := map[string]int{}
		var r records
		r.fail(func(_ context.Context, host string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			lookups[host]++
			return []string{"10.0.0.1"}, nil
		})
		services := []config.Service{ingest}
		for i := range config.MaxExtra {
			services = append(services, config.Service{Addresses: []string{fmt.Sprintf("http://s%d:1", i)}, AllCounters: true})
		}
		client, _ := resolving(&r, services...)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { client.KeepInstances(ctx, zerolog.Nop()) })
		const turns = config.MaxExtra / maxNames
		pass(turns*lookupInterval + time.Second)
		synctest.Wait()
		mu.Lock()
		if n := lookups["ingest"]; n != 1+turns {
			t.Errorf("ingest was looked up %d times", n)
		}
		for i := range config.MaxExtra {
			if n := lookups[fmt.Sprintf("s%d", i)]; n != 2 { // at the start, and in its turn
				t.Errorf("s%d was looked up %d times", i, n)
			}
		}
		mu.Unlock()
		cancel()
		running.Wait()
	})
}

// An instance is asked at its address, under the name's name: in the Host header,
// in TLS, and with what the URL carries besides. Its connection is its own, and
// kept.
func TestAnInstanceIsAskedUnderTheNamesName(t *testing.T) {
	t.Parallel()
	authority := certtest.New(t)
	pair := authority.Issue("ingest.example", time.Hour)
	var mu sync.Mutex
	seen := map[string]bool{}
	connections := 0
	closed := make(chan struct{}, 100)
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
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			switch state {
			case http.StateNew:
				connections++
			case http.StateClosed:
				closed <- struct{}{}
			}
		}
		server.StartTLS()
		t.Cleanup(server.Close)
	}
	cfg, err := config.FromEnvironment([]string{"HEALTH_CA_FILE=" + authority.File, "INGEST_HEALTH_URL=https://u:p@ingest.example:" + port + "/base"})
	if err != nil {
		t.Fatal(err)
	}
	var r records
	r.set("127.0.0.11", "127.0.0.12")
	client := NewClient(cfg.HealthCAs)
	defer client.Close()
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
	if connections != 2 {
		t.Errorf("%d connections for two instances", connections)
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
	if len(closed) > 0 {
		t.Error("a connection is not kept")
	}
	before := connections
	for _, i := range Observe(t.Context(), targets, Timeout)[0].Instances {
		for range 2 {
			if again := i.Again(t.Context()); again.Status != Healthy || again.Counters["n"] != 10 {
				t.Errorf("%+v", again)
			}
		}
	}
	mu.Lock()
	if connections != before+4 {
		t.Errorf("%d connections for four requests on connections of their own", connections-before)
	}
	mu.Unlock()
	for range 4 {
		<-closed
	}
	// Kept ones are closed where the answer is another, since one may be gone.
	r.set("127.0.0.11")
	client.FindInstances(t.Context(), zerolog.Nop())
	for range 2 {
		<-closed
	}
}

// An instance that hangs costs itself: a thousand of them keep none waiting.
func TestNoInstanceWaitsForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hanging := func(ctx context.Context) Reading {
			<-ctx.Done()
			return Reading{Status: Unknown, Err: "no answer"}
		}
		well := func(ctx context.Context) Reading {
			if ctx.Err() != nil {
				return Reading{Status: Unknown, Err: "too late"}
			}
			return Reading{Status: Healthy}
		}
		instances := slices.Repeat([]Instance{{Probe: hanging}}, 1500)
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
		"no such host":        &net.DNSError{Err: "no such host", Server: "10.9.9.9:53", IsNotFound: true},
		"no answer within 4s": &net.DNSError{Err: "i/o timeout", Server: "10.9.9.9:53", IsTimeout: true},
		"refused":             errors.New("refused"),
	} {
		if got := plainLookup(err).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
