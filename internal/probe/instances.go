package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

const (
	// lookupInterval is how often the names are looked up, and lookupTimeout how
	// long one look-up may take: the next one finds none under way.
	lookupInterval = 5 * time.Second
	lookupTimeout  = 4 * time.Second
	maxLookups     = 64 // at the same time
	// maxNames is how many names of extra services are looked up each time: a name
	// server answers 50 a second, however many there are.
	maxNames = 250
)

// Resolver looks up the addresses of a name; Go's own does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Instance is one of those that a service is.
type Instance struct {
	// Address is its host:port, or that of its name: for people.
	Address string
	// id tells it from the service's others where they share an address.
	id    string
	Probe Probe
	// Fresh asks it on a connection of its own; nil where it has no counters with a
	// total.
	Fresh Probe
}

// endpoint is one entry of a service's list: an address, or a name that leads to
// one or more.
type endpoint struct {
	host, port string
	// prober makes the probes of an address, or of the name itself where that is
	// empty.
	prober func(address string) (probe, fresh Probe)

	// servers are those over HTTP, by the address that is dialled. Like addresses,
	// what the newest look-up that succeeded brought, they are of the client's mutex.
	servers   map[string]*server
	addresses []netip.Addr
	looking   faultlog.Log
}

// dropIdle drops the connections that are kept, and forgets the servers whose
// address is gone. It is called under the client's mutex.
func (e *endpoint) dropIdle() {
	for address, s := range e.servers {
		s.drop()
		at, err := netip.ParseAddrPort(address)
		if err == nil && len(e.addresses) > 0 && !slices.Contains(e.addresses, at.Addr()) {
			delete(e.servers, address)
		}
	}
}

// service is a target's endpoints, and the instances that they are now.
type service struct {
	endpoints []*endpoint
	// extra services share config.MaxExtra instances.
	extra bool

	mu        sync.Mutex
	instances []Instance
}

// Instances are those that are asked now.
func (s *service) Instances() []Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances
}

// newService prepares the endpoints of a service; each is one instance until its
// name has been looked up.
func (c *Client) newService(of config.Service, prepare func(address string) *endpoint) *service {
	s := &service{extra: of.AllCounters}
	for _, address := range of.Addresses {
		s.endpoints = append(s.endpoints, prepare(address))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.publish(s.all())
	c.services = append(c.services, s)
	return s
}

// all is how many instances are known of.
func (s *service) all() (n int) {
	for _, e := range s.endpoints {
		n += max(len(e.addresses), 1)
	}
	return n
}

// publish makes the instances of what is known, the first ones by address where
// there are more than room.
func (s *service) publish(room int) {
	instances := make([]Instance, 0, room)
	add := func(i Instance) {
		if len(instances) < room {
			instances = append(instances, i)
		}
	}
	for n, e := range s.endpoints {
		id := strconv.Itoa(n) + " "
		if len(e.addresses) < 2 { // the name itself, as long as it is one
			probe, fresh := e.prober("")
			add(Instance{Address: net.JoinHostPort(e.host, e.port), id: id, Probe: probe, Fresh: fresh})
			continue
		}
		for _, a := range e.addresses {
			address := net.JoinHostPort(a.String(), e.port)
			probe, fresh := e.prober(address)
			add(Instance{Address: address, id: id, Probe: probe, Fresh: fresh})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances = instances
}

// share gives each service its instances, where one of changed has others now. An
// extra service has at least one, however many there are of the others. It is
// called under the mutex.
func (c *Client) share(changed *service) {
	room, others := config.MaxExtra, 0
	for _, s := range c.services {
		if s.extra {
			others++
		}
	}
	c.tooMany = 0
	for _, s := range c.services {
		all := s.all()
		share := min(all, config.MaxInstances)
		if s.extra {
			others--
			share = max(min(share, room-others), 1)
			room -= share
		}
		c.tooMany += all - share
		if s == changed || share != len(s.Instances()) {
			s.publish(share)
		}
	}
}

// name is an endpoint that may be several instances.
type name struct {
	*endpoint
	of *service
}

// names are all that there are of the platform's services, and of the extra ones.
func (c *Client) names() (platform, extra []name) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.services {
		for _, e := range s.endpoints {
			if _, err := netip.ParseAddr(e.host); err == nil || e.host == "" {
				continue
			}
			if s.extra {
				extra = append(extra, name{e, s})
			} else {
				platform = append(platform, name{e, s})
			}
		}
	}
	return platform, extra
}

// KeepInstances looks up the names of all services, and again every few seconds,
// until ctx is done: of the extra services so many a time, in turn. No cycle waits
// for it.
func (c *Client) KeepInstances(ctx context.Context, log zerolog.Logger) {
	if c.Resolver == nil {
		return
	}
	began := time.Now()
	c.FindInstances(ctx, log)
	platform, extra := c.names()
	for turn := 0; ; turn++ {
		if backoff.Wait(ctx, lookupInterval-time.Since(began)); ctx.Err() != nil {
			return
		}
		began = time.Now()
		due := extra
		if n := (len(extra) + maxNames - 1) / maxNames; n > 1 {
			first := turn % n * maxNames
			due = extra[first:min(first+maxNames, len(extra))]
		}
		c.find(ctx, log, slices.Concat(platform, due))
	}
}

// FindInstances looks up the names of all services once. A look-up that fails
// changes nothing.
func (c *Client) FindInstances(ctx context.Context, log zerolog.Logger) {
	if c.Resolver != nil {
		platform, extra := c.names()
		c.find(ctx, log, slices.Concat(platform, extra))
	}
}

func (c *Client) find(ctx context.Context, log zerolog.Logger, names []name) {
	var group errgroup.Group
	group.SetLimit(maxLookups)
	for _, n := range names {
		group.Go(func() error {
			c.lookUp(ctx, log, n)
			return nil
		})
	}
	_ = group.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var fault error
	if c.tooMany > 0 {
		fault = fmt.Errorf("%d instances too many: a service has at most %d, and all extra services have %d", c.tooMany, config.MaxInstances, config.MaxExtra)
	}
	c.crowded.Observe(log, fault, "too many instances, the last ones by address are not asked", "all instances are asked again")
}

func (c *Client) lookUp(ctx context.Context, log zerolog.Logger, e name) {
	limited, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := c.Resolver.LookupNetIP(limited, "ip", e.host)
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		// Of a name that is one instance its probe says so.
		if len(e.addresses) > 1 {
			e.looking.Observe(log.With().Str("name", e.host).Logger(), plainLookup(err), lookupFails, lookupSucceeds)
		}
		return
	}
	e.looking.Observe(log.With().Str("name", e.host).Logger(), nil, lookupFails, lookupSucceeds)
	found = oneFamily(found)
	if len(found) == 0 || slices.Equal(found, e.addresses) {
		return
	}
	several := len(e.addresses) > 1 || len(found) > 1
	e.addresses = found
	// Or one that is gone would be asked on a connection that still stands.
	e.dropIdle()
	if several {
		c.share(e.of)
	}
}

const (
	lookupFails    = "name cannot be looked up, its last addresses are asked"
	lookupSucceeds = "name can be looked up again"
)

// plainLookup is an error of a look-up without the name server's address.
func plainLookup(err error) error {
	var dnsErr *net.DNSError
	switch {
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		return errNoHost
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &dnsErr) && dnsErr.IsTimeout:
		return fmt.Errorf("no answer within %s", lookupTimeout)
	}
	return errors.New(faultlog.PlainText(err.Error()))
}

var errNoHost = errors.New("no such host")

// oneFamily are the addresses of the family that is asked, sorted: IPv4 where
// there is any. An instance that has an address of each is one.
func oneFamily(found []netip.Addr) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	if len(v4) == 0 {
		v4 = v6
	}
	slices.SortFunc(v4, netip.Addr.Compare)
	return slices.Compact(v4)
}

// endpointOf is where a URL leads: its host and its port.
func endpointOf(u *url.URL) (host, port string) {
	host, port = u.Hostname(), u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return host, port
}
