package pgserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// Guard is a small shell process that outlives this one by a moment. It waits on a pipe of which this process holds the
// other end, and cleans up when that end closes: after a panic in a test, a `go test -timeout`, a SIGKILL, all of which
// run no deferred function. It has a session of its own, so a Ctrl-C at the terminal does not reach it.
type Guard struct {
	command *exec.Cmd
	pipe    io.WriteCloser
}

// NewGuard starts a guard that runs the shell script cleanup, with args as $1, $2 and so on, unless it is dismissed.
func NewGuard(cleanup string, args ...string) (*Guard, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the guard's pipe: %w", err)
	}
	defer reader.Close()

	script := `trap '' HUP INT TERM; read -r word; [ "$word" = dismissed ] && exit 0; ` + cleanup
	command := exec.Command("sh", append([]string{"-c", script, "pgserver-guard"}, args...)...)
	command.Stdin = reader
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", errors.Join(err, writer.Close()))
	}
	return &Guard{command: command, pipe: writer}, nil
}

// Dismiss ends the guard without its clean-up, which the caller has done itself.
func (g *Guard) Dismiss() error {
	_, err := io.WriteString(g.pipe, "dismissed\n")
	return errors.Join(err, g.pipe.Close(), g.command.Wait())
}
