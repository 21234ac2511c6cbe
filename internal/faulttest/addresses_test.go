package faulttest

import (
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// silent is an address that accepts and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil {
				for _, conn := range held {
					conn.Close()
				}
				return
			}
			held = append(held, conn)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// swallowing is an address whose machine is gone: no connection to it is ever made,
// nor refused.
func swallowing(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: bound.(*syscall.SockaddrInet4).Port}).String()
	for range 8 { // until its queue is full
		conn, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this kernel's queue of connections does not fill")
	return ""
}

// A database at two addresses, of which the first is a machine that does not answer:
// the second one is found in the time of two cycles or 5 s, by whoever asks.
func TestTheFirstOfTwoAddressesDoesNotAnswer(t *testing.T) {
	for name, address := range map[string]func(*testing.T) string{"says nothing": silent, "is gone": swallowing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const found = 5 * time.Second
			r := newRig(t)
			r.database.Host = address(t) + "," + r.database.Host
			r.database.RawQuery = "target_session_attrs=read-write"
			url := "DATABASE_URL=" + r.database.String()
			for _, args := range [][]string{{"status"}, {"doctor"}, {"migrate", "status"}, {"once", "metrics"}} {
				command := exec.CommandContext(t.Context(), binary, args...)
				command.Env = append([]string{url, "DB_CONNECT_TIMEOUT=4"}, r.services...)
				output, _ := command.CombinedOutput()
				// status and doctor have their own word on a platform that nobody watches yet.
				if text := string(output); strings.Contains(text, "cannot be read") || strings.Contains(text, "no answer within") || strings.Contains(text, "failed to connect") {
					t.Errorf("%v: %s", args, text)
				}
			}
			r.exec("DELETE FROM system_metrics")
			began := time.Now()
			r.start("DB_CONNECT_TIMEOUT=4")
			r.eventually("the first cycle is stored", func() bool { return r.cycles() > 0 })
			// The start has a connection of its own, and the loops the next.
			if took := time.Since(began); took > 2*found {
				t.Errorf("the first cycle is stored after %s", took)
			}
			r.settle()
			r.mark()
			for range 3 {
				r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ops_worker'")
				lost := r.cycles()
				r.within(found, "cycles are stored again", func() bool { return r.cycles() > lost+1 })
				r.settle()
			}
			r.holds("lost connections, and a first address that "+name, found)
		})
	}
}
