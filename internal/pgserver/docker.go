package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"time"
)

// dockerTimeout bounds the start of a container, the download of its image included.
const dockerTimeout = 5 * time.Minute

// StartDocker runs the server in a container by the docker command, which needs no library.
func StartDocker(ctx context.Context) (*Server, error) {
	cli, err := exec.LookPath("docker")
	if err != nil {
		return nil, fmt.Errorf("find the docker command: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	docker := func(ctx context.Context, args ...string) (string, error) {
		var output, errs bytes.Buffer
		command := exec.CommandContext(ctx, cli, args...)
		command.Stdout, command.Stderr = &output, &errs
		if err := command.Run(); err != nil {
			return "", fmt.Errorf("docker %s: %w: %s", args[0], err, tail(errs.Bytes()))
		}
		return strings.TrimSpace(output.String()), nil
	}

	password := Token()
	id, err := docker(ctx, append([]string{"run", "--detach", "--publish", "127.0.0.1::5432", "--tmpfs", DataDirectory, "--env", "PGDATA=" + DataDirectory,
		"--env", "POSTGRES_USER=" + Superuser, "--env", "POSTGRES_PASSWORD=" + password, Image(), "postgres"}, Settings()...)...)
	if err != nil {
		return nil, err
	}
	watch, err := NewGuard(nil, `exec "$1" rm --force --volumes "$2" >/dev/null 2>&1`, cli, id)
	remove := func() error {
		_, err := docker(context.WithoutCancel(ctx), "rm", "--force", "--volumes", id)
		return err
	}
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	stop := func() error { return errors.Join(remove(), watch.Dismiss()) }
	endpoint, err := docker(ctx, "port", id, "5432/tcp")
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	endpoint, _, _ = strings.Cut(endpoint, "\n")
	base, err := AwaitReady(ctx, []*url.URL{SuperuserURL(endpoint, password)}, nil)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return New(Docker, base, stop), nil
}
