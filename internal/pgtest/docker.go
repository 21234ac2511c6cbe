package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"ops_worker/internal/pgserver"
)

const (
	// engineTimeout bounds the question whether an engine answers, registryTimeout the one whether a registry has the
	// image: both are asked on machines that have neither, and must cost little there.
	engineTimeout   = 5 * time.Second
	registryTimeout = 10 * time.Second
	// pullTimeout bounds the download of the image, some 150 MB.
	pullTimeout = 5 * time.Minute
	// containerTimeout bounds making and starting the container.
	containerTimeout = time.Minute
)

// startDocker runs the server in a container.
func startDocker(ctx context.Context) (*pgserver.Server, error) {
	cli, ryuk := prepareTestcontainers()
	host, err := prepareImage(ctx)
	if err != nil {
		return nil, err
	}

	password := pgserver.Token()
	creating, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	container, err := postgres.Run(creating, pgserver.Image(),
		postgres.WithUsername(pgserver.Superuser),
		postgres.WithPassword(password),
		testcontainers.WithCmd(append([]string{"postgres"}, pgserver.Settings()...)...),
		testcontainers.WithTmpfs(map[string]string{pgserver.DataDirectory: "rw"}),
		testcontainers.WithEnv(map[string]string{"PGDATA": pgserver.DataDirectory}),
	)
	terminate := func() error {
		// A stop time-out of zero kills: a polite stop waits for the clients to leave.
		err := testcontainers.TerminateContainer(container, testcontainers.StopTimeout(0))
		if err != nil {
			return fmt.Errorf("remove the container: %w", err)
		}
		return nil
	}
	if err != nil {
		return nil, errors.Join(err, terminate())
	}
	var watch *pgserver.Guard
	if !ryuk {
		watch, err = pgserver.NewGuard([]string{"DOCKER_HOST=" + host},
			`exec "$1" rm --force --volumes "$2" >/dev/null 2>&1`, cli, container.GetContainerID())
		if err != nil {
			return nil, errors.Join(err, terminate())
		}
	}
	stop := func() error {
		err := terminate()
		if watch != nil {
			err = errors.Join(err, watch.Dismiss())
		}
		return err
	}

	endpoint, err := container.PortEndpoint(creating, "5432/tcp", "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find the container's port: %w", err), stop())
	}
	// On a machine that looks like a container itself the engine's gateway is taken for the host, although the port may
	// be on loopback alone: both are tried.
	_, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the container's address: %w", err), stop())
	}
	base, err := pgserver.AwaitReady(ctx, addresses(password, endpoint, net.JoinHostPort("127.0.0.1", port)), nil)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return pgserver.New(pgserver.Docker, base, stop), nil
}

// prepareTestcontainers silences the library, whose log lines would stand in every test's output, and chooses who
// removes the container when this process dies: a guard where the docker command exists, since that needs no second
// container and no second image, else the library's own reaper. It returns the docker command and whether the reaper is
// used. A setting of the user's own stands, but for a reaper switched off without a docker command nobody cleans up
// after a SIGKILL.
func prepareTestcontainers() (cli string, ryuk bool) {
	log.SetDefault(log.NewNoopLogger())
	const disabled = "TESTCONTAINERS_RYUK_DISABLED"
	cli, err := exec.LookPath("docker")
	if err != nil {
		return "", true
	}
	if value, set := os.LookupEnv(disabled); set && value != "true" {
		return cli, true
	}
	// It has no other switch than the environment. A failure leaves the reaper on, and that is right as well.
	return cli, os.Setenv(disabled, "true") != nil
}

// prepareImage sees to it that an engine answers and has the image. It returns the engine's address.
func prepareImage(ctx context.Context) (string, error) {
	image := pgserver.Image()
	asking, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	engine, err := testcontainers.NewDockerClientWithOpts(asking)
	if err != nil {
		return "", fmt.Errorf("no engine answers: %w", err)
	}
	defer engine.Close()
	if _, err := engine.Ping(asking, client.PingOptions{}); err != nil {
		return "", fmt.Errorf("no engine answers: %w", err)
	}
	if _, err := engine.ImageInspect(asking, image); err == nil {
		return engine.DaemonHost(), nil
	}

	// The registry is asked first, because a pull from one that cannot be reached is tried again and again.
	asking, cancel = context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	if _, err := engine.DistributionInspect(asking, image, client.DistributionInspectOptions{}); err != nil {
		return "", fmt.Errorf("the engine has no %s and cannot pull it: %w", image, err)
	}
	pulling, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	fmt.Fprintf(os.Stderr, "pgtest: pulling %s\n", image)
	pull, err := engine.ImagePull(pulling, image, client.ImagePullOptions{})
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", image, err)
	}
	if err := errors.Join(pull.Wait(pulling), pull.Close()); err != nil {
		return "", fmt.Errorf("pull %s: %w", image, err)
	}
	return engine.DaemonHost(), nil
}

// addresses are the superuser's URLs at these hosts, each once.
func addresses(password string, hosts ...string) []*url.URL {
	var urls []*url.URL
	for i, host := range hosts {
		if !slices.Contains(hosts[:i], host) {
			urls = append(urls, pgserver.SuperuserURL(host, password))
		}
	}
	return urls
}
