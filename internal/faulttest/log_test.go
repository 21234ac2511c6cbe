package faulttest

import (
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is a log that holds one page of lines until somebody reads it.
func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	return reader, writer
}

// works checks that a worker does what it is there for: cycles are stored, an alert
// opens and closes, and a stop ends it in time with the lease handed back.
func (r *rig) works(w *worker) {
	r.t.Helper()
	r.settle()
	r.evaluate.Store(http.StatusServiceUnavailable)
	r.within(righting, "an alert opens", func() bool { return r.counts(1, "SELECT count(*) FROM fleet_alert WHERE status = 'OPEN'") })
	r.evaluate.Store(http.StatusOK)
	r.holds("a log that nobody reads", noGap)
	begin := time.Now()
	if status := w.end(syscall.SIGTERM); status != 0 {
		r.t.Errorf("status %d", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		r.t.Errorf("it took %s to stop", took)
	}
	if !r.counts(1, "SELECT count(*) FROM ops_worker_lease WHERE holder = ''") {
		r.t.Error("the lease is not handed back")
	}
}

func TestALogThatNobodyReads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mark()
	reader, writer := pipe(t)
	w := r.run(exec.Command(binary, "run"), writer, "LOG_LEVEL=DEBUG")
	waiting := 0
	r.eventually("the log is full", func() bool {
		before := waiting
		waiting, _ = unix.IoctlGetInt(int(reader.Fd()), unix.TIOCINQ)
		return waiting > os.Getpagesize()/2 && waiting == before && r.cycles() > 20
	})
	r.works(w)
}

func TestALogWhoseReaderIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mark()
	reader, writer := pipe(t)
	w := r.run(exec.Command(binary, "run"), writer)
	r.eventually("it says something", func() bool {
		n, err := unix.IoctlGetInt(int(reader.Fd()), unix.TIOCINQ)
		return err == nil && n > 0
	})
	reader.Close()
	r.works(w)
}

// Whoever hangs up stops a worker as SIGTERM does, unless it was started to go on.
func TestHangUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.start()
	r.settle()
	if status := w.end(syscall.SIGHUP); status != 0 || !r.counts(1, "SELECT count(*) FROM ops_worker_lease WHERE holder = ''") {
		t.Errorf("status %d, or the lease is not handed back", status)
	}
	_, writer := pipe(t)
	w = r.run(exec.Command("/bin/sh", "-c", `trap "" HUP; exec "$0" run`, binary), writer)
	r.settle()
	w.signal(syscall.SIGHUP)
	r.works(w)
}
