package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// dockerTimeout bounds the start of a container, the download of its image included.
const dockerTimeout = 5 * time.Minute

// startDocker runs the server in a container by the docker command.
func startDocker(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	password := Token()
	id, err := docker(ctx, append([]string{"run", "--detach", "--publish", "127.0.0.1::5432", "--tmpfs", DataDirectory, "--env", "PGDATA=" + DataDirectory,
		"--env", "POSTGRES_USER=" + Superuser, "--env", "POSTGRES_PASSWORD=" + password, Image(), "postgres"}, Settings()...)...)
	if err != nil {
		return nil, err
	}
	remove := func() error {
		_, err := docker(context.WithoutCancel(ctx), "rm", "--force", "--volumes", id)
		return err
	}
	guard, err := GuardContainer(id)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	stop := func() error { return errors.Join(remove(), guard.Dismiss()) }
	addresses, err := docker(ctx, "port", id, "5432/tcp")
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	address, _, _ := strings.Cut(addresses, "\n")
	server := New(address, password, stop)
	if err := server.AwaitReady(ctx, nil); err != nil {
		return nil, errors.Join(err, stop())
	}
	return server, nil
}

// GuardContainer removes a container when this process dies.
func GuardContainer(id string) (*Guard, error) {
	return NewGuard(`exec docker rm --force --volumes "$1" >/dev/null 2>&1`, id)
}

func docker(ctx context.Context, args ...string) (string, error) {
	var output, errs bytes.Buffer
	command := exec.CommandContext(ctx, "docker", args...)
	command.Stdout, command.Stderr = &output, &errs
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, tail(errs.Bytes()))
	}
	return strings.TrimSpace(output.String()), nil
}
