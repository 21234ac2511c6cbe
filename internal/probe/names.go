package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/humanize"
)

const (
	// lookupInterval is how often the names are looked up, and lookupTimeout how
	// long one look-up may take: the next one finds none under way.
	lookupInterval = 5 * time.Second
	lookupTimeout  = 4 * time.Second
	// goneAfter is how many look-ups in a row that find no such host show that a name does
	// not exist. It loses its addresses then: they may be a stranger's.
	goneAfter = 2
	// shownNames is how many names that cannot be looked up a log line has.
	shownNames = 10
)

// Resolver looks up the addresses of a name; Go's own does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// name is the host of services: a name and the addresses that it was last known to lead
// to, or one address.
type name struct {
	host string

	mu        sync.Mutex
	addresses []netip.Addr // IPv4 before IPv6, sorted
	missing   int          // look-ups in a row that found no such host
	// fault is of the newest look-up, where the addresses are of an earlier one.
	fault error
}

// nameOf is what is known of a host.
func (c *Client) nameOf(host string) *name {
	if a, err := netip.ParseAddr(host); err == nil {
		return &name{host: host, addresses: []netip.Addr{a}}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[host] == nil {
		c.names[host] = &name{host: host}
	}
	return c.names[host]
}

func (n *name) known() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses
}

// Instance is one of those that a service is.
type Instance struct {
	// Address is its host:port, or that of its name: for people.
	Address string
	// id tells it from the service's others where they share an address.
	id    string
	Probe Probe
}

// service is the entries of a target's list. Where it is spread, each address of a name
// is an instance.
type service struct {
	name    string
	entries []asking
	spread  bool
}

// instances are those of a service now, those too many included.
func (s *service) instances() (instances []Instance) {
	for n, e := range s.entries {
		addresses := firstFamily(e.name.known())
		if !s.spread || len(addresses) < 2 {
			addresses = []netip.Addr{{}} // the name itself
		}
		for _, a := range addresses {
			host := e.name.host
			if a.IsValid() {
				host = a.String()
			}
			instances = append(instances, Instance{Address: net.JoinHostPort(host, e.port), id: strconv.Itoa(n) + " ", Probe: e.at(a)})
		}
	}
	return instances
}

// KeepInstances looks up the names of all services, and again every few seconds,
// until ctx is done. No cycle waits for it.
func (c *Client) KeepInstances(ctx context.Context, log zerolog.Logger) {
	for ctx.Err() == nil {
		began := time.Now()
		c.FindInstances(ctx, log)
		backoff.Wait(ctx, lookupInterval-time.Since(began))
	}
}

// FindInstances looks up the names of all services once, all at the same time.
func (c *Client) FindInstances(ctx context.Context, log zerolog.Logger) {
	limited, cancel := context.WithTimeout(log.WithContext(ctx), lookupTimeout)
	defer cancel()
	c.mu.Lock()
	names := slices.Collect(maps.Values(c.names))
	c.mu.Unlock()
	var looking sync.WaitGroup
	for _, n := range names {
		looking.Go(func() {
			defer faultlog.Recovered(limited, func(err error) { n.learn(nil, err) })
			found, err := c.Resolver.LookupNetIP(limited, "ip", n.host)
			n.learn(found, err)
		})
	}
	looking.Wait()
	if ctx.Err() == nil {
		c.logLookups(log, names)
	}
}

// learn takes the outcome of a look-up, and reports whether the name does not exist. Only
// another answer, or no such host again, changes anything.
func (n *name) learn(found []netip.Addr, err error) (gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = err
	var dnsErr *net.DNSError
	switch {
	case err == nil && len(found) > 0:
		n.addresses, n.missing = byFamily(found), 0
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		if n.missing++; n.missing >= goneAfter {
			n.addresses = nil
		}
	default:
		n.missing = 0
	}
	if len(n.addresses) == 0 { // then its probe says so
		n.fault = nil
	}
	return n.missing >= goneAfter
}

func (n *name) lookupFault() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fault
}

const (
	lookupFails    = "names cannot be looked up, their last addresses are asked"
	lookupSucceeds = "names can be looked up again"
	tooMany        = "too many instances, the last ones by address are not asked"
	notTooMany     = "all instances are asked again"
)

// logLookups says which names could not be looked up, and which services have more
// instances than are asked.
func (c *Client) logLookups(log zerolog.Logger, names []*name) {
	var failed []string
	var fault, crowded error
	for _, n := range names {
		if err := n.lookupFault(); err != nil {
			failed = append(failed, n.host)
			fault = errors.New(plainCause(err))
		}
	}
	slices.Sort(failed)
	c.looking.Observe(log.With().Strs("names", humanize.Few(failed, shownNames)).Logger(), fault, lookupFails, lookupSucceeds)
	for _, s := range c.services {
		if n := len(s.instances()); n > config.MaxInstances {
			crowded = errors.Join(crowded, fmt.Errorf("%s has %d instances, at most %d are asked", s.name, n, config.MaxInstances))
		}
	}
	c.crowded.Observe(log, crowded, tooMany, notTooMany)
}

// byFamily are different addresses, IPv4 before IPv6, each sorted.
func byFamily(found []netip.Addr) []netip.Addr {
	addresses := make([]netip.Addr, len(found))
	for i, a := range found {
		addresses[i] = a.Unmap()
	}
	slices.SortFunc(addresses, netip.Addr.Compare) // which has the shorter ones first
	return slices.Compact(addresses)
}

// firstFamily are those of the family that is asked: IPv4 where there is any. An
// instance that has an address of each is one.
func firstFamily(addresses []netip.Addr) []netip.Addr {
	n := slices.IndexFunc(addresses, netip.Addr.Is6)
	if n <= 0 {
		return addresses
	}
	return addresses[:n]
}
