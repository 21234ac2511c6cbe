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
	"strings"
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
	// forgottenAfter is how many look-ups in a row that find no such host make a name
	// lose its addresses: they may be a stranger's by then.
	forgottenAfter = 2
	// shownNames is how many names that cannot be looked up a log line has.
	shownNames = 10
)

// Resolver looks up the addresses of a name; Go's own does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// name is a host name that services have, and the addresses that it was last known to
// lead to. It is of the client's mutex.
type name struct {
	host      string
	addresses []netip.Addr // IPv4 before IPv6, sorted
	missing   int          // look-ups in a row that found no such host
}

// Instance is one of those that a service is.
type Instance struct {
	// Address is its host:port, or that of its name: for people.
	Address string
	// id tells it from the service's others where they share an address.
	id    string
	Probe Probe
}

// asking is how the instances at one entry of a service's list are asked: at an
// address, or under the name itself where that is not valid.
type asking struct {
	host, port string
	at         func(netip.Addr) Probe
}

// service is the entries of a target's list.
type service struct {
	name    string
	entries []asking
	// spread says that each address of a name is an instance.
	spread bool
}

// newService prepares the entries of a service, and notes the names in them.
func (c *Client) newService(of config.Service, prepare func(address string) asking) *service {
	s := &service{name: of.Name, spread: c.instances && !of.AllCounters}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, address := range of.Addresses {
		entry := prepare(address)
		s.entries = append(s.entries, entry)
		if _, err := netip.ParseAddr(entry.host); err != nil && entry.host != "" && c.names[entry.host] == nil {
			c.names[entry.host] = &name{host: entry.host}
		}
	}
	c.services = append(c.services, s)
	return s
}

// instancesOf are those of a service now; all is how many there would be if a service
// might have so many.
func (c *Client) instancesOf(s *service) (instances []Instance, all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, e := range s.entries {
		id := strconv.Itoa(n) + " "
		var addresses []netip.Addr
		if known := c.names[e.host]; known != nil && s.spread {
			addresses = firstFamily(known.addresses)
		}
		if len(addresses) < 2 { // the name itself, as long as it is one
			instances = append(instances, Instance{Address: net.JoinHostPort(e.host, e.port), id: id, Probe: e.at(netip.Addr{})})
			continue
		}
		for _, a := range addresses {
			instances = append(instances, Instance{Address: net.JoinHostPort(a.String(), e.port), id: id, Probe: e.at(a)})
		}
	}
	return instances[:min(len(instances), config.MaxInstances)], len(instances)
}

// addressesOf are the last known addresses of a host. Where there are none it is
// looked up, in the time of whoever asks.
func (c *Client) addressesOf(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	c.mu.Lock()
	known := c.names[host]
	var addresses []netip.Addr
	if known != nil {
		addresses = known.addresses
	}
	c.mu.Unlock()
	if len(addresses) > 0 {
		return addresses, nil
	}
	found, err := c.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNoHost
	}
	return byFamily(found), nil
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
	limited, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	c.mu.Lock()
	names := slices.Collect(maps.Values(c.names))
	c.mu.Unlock()
	errs := make([]error, len(names))
	var looking sync.WaitGroup
	for i, n := range names {
		looking.Go(func() {
			defer faultlog.Recovered(log.WithContext(ctx), func(err error) { errs[i] = err })
			found, err := c.Resolver.LookupNetIP(limited, "ip", n.host)
			errs[i] = c.learn(n, found, err)
		})
	}
	looking.Wait()
	if ctx.Err() == nil {
		c.logLookups(log, names, errs)
	}
}

// learn takes the outcome of a look-up. Only another answer, or none such host again,
// changes anything. An error is of a name whose addresses are asked all the same: of
// any other name its probe says so.
func (c *Client) learn(n *name, found []netip.Addr, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var dnsErr *net.DNSError
	switch {
	case err == nil && len(found) > 0:
		n.addresses, n.missing = byFamily(found), 0
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		if n.missing++; n.missing >= forgottenAfter {
			n.addresses = nil
		}
	default:
		n.missing = 0
	}
	if len(n.addresses) == 0 {
		return nil
	}
	return err
}

const (
	lookupFails    = "names cannot be looked up, their last addresses are asked"
	lookupSucceeds = "names can be looked up again"
	tooMany        = "too many instances, the last ones by address are not asked"
	notTooMany     = "all instances are asked again"
)

// logLookups says which names could not be looked up, and which services have more
// instances than are asked.
func (c *Client) logLookups(log zerolog.Logger, names []*name, errs []error) {
	var failed []string
	var fault error
	for i, n := range names {
		if errs[i] != nil {
			failed = append(failed, n.host)
			fault = plainLookup(errs[i])
		}
	}
	slices.Sort(failed)
	c.looking.Observe(log.With().Strs("names", humanize.Few(failed, shownNames)).Logger(), fault, lookupFails, lookupSucceeds)
	var crowded []string
	for _, s := range c.services {
		if _, all := c.instancesOf(s); all > config.MaxInstances {
			crowded = append(crowded, fmt.Sprintf("%s has %d", s.name, all))
		}
	}
	fault = nil
	if len(crowded) > 0 {
		fault = fmt.Errorf("a service has at most %d instances: %s", config.MaxInstances, strings.Join(crowded, ", "))
	}
	c.crowded.Observe(log, fault, tooMany, notTooMany)
}

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
