package pgtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"ops_worker/internal/pgserver"
)

const (
	// askTimeout bounds the questions whether an engine answers and has the image, or a registry has it: they are asked
	// on machines that have none, and must cost little there.
	askTimeout = 10 * time.Second
	// containerTimeout bounds the start of the container, the download of the image included.
	containerTimeout = 3 * time.Minute
)

// startContainer runs the server in a container.
func startContainer(ctx context.Context) (*pgserver.Server, error) {
	log.SetDefault(log.NewNoopLogger()) // its lines would stand in every test's output
	if err := checkImage(ctx, pgserver.Image()); err != nil {
		return nil, err
	}
	creating, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	password := pgserver.Token()
	container, err := postgres.Run(creating, pgserver.Image(),
		postgres.WithUsername(pgserver.Superuser),
		postgres.WithPassword(password),
		testcontainers.WithCmd(append([]string{"postgres"}, pgserver.Settings()...)...),
		testcontainers.WithTmpfs(map[string]string{pgserver.DataDirectory: "rw"}),
		testcontainers.WithEnv(map[string]string{"PGDATA": pgserver.DataDirectory}),
	)
	stop := func() error { // at once: a polite stop waits for the clients to leave
		return testcontainers.TerminateContainer(container, testcontainers.StopTimeout(0))
	}
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	// The library's own container that removes others may be switched off.
	guard, err := pgserver.GuardContainer(container.GetContainerID())
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	address, err := container.PortEndpoint(creating, "5432/tcp", "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find the container's port: %w", err), stop(), guard.Dismiss())
	}
	server := pgserver.New(address, password, func() error { return errors.Join(stop(), guard.Dismiss()) })
	if err := server.AwaitReady(ctx, nil); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return server, nil
}

// checkImage fails if no engine answers, or neither it nor a registry has the image: to pull from a registry that cannot
// be reached is tried again and again.
func checkImage(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	engine, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return fmt.Errorf("no engine answers: %w", err)
	}
	defer engine.Close()
	if _, err := engine.ImageInspect(ctx, image); err == nil {
		return nil
	}
	if _, err := engine.DistributionInspect(ctx, image, client.DistributionInspectOptions{}); err != nil {
		return fmt.Errorf("the engine has no %s and cannot pull it: %w", image, err)
	}
	return nil
}
