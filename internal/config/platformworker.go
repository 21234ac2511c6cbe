package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// platformWorkerVariable matches what the platform's newest release sets for its
// own ops_worker and for no other reason: its object store, its broker's API, its
// certificate authority and its over-the-air updates.
var platformWorkerVariable = pattern(`^(?:S3_ENDPOINT|EMQX_API_URL|DEVICE_CA_KEY_PATH|OTA_\w+)$`)

// serviceLink matches what Kubernetes sets for a service of the namespace, which
// may be called ota.
var serviceLink = pattern(`_SERVICE_HOST$|_SERVICE_PORT(?:_\w+)?$|_PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?$`)

func platformWorkerSettings(set map[string]string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(set)), func(name string) bool {
		return !platformWorkerVariable().MatchString(name) || serviceLink().MatchString(name)
	})
}

// PlatformWorkerAdvice is what to do in the place of the platform's own worker.
const PlatformWorkerAdvice = "run this worker beside the platform's own, with settings of its own: docs/cut-over.md, \"beside\"; " +
	"REPLACE_PLATFORM_WORKER=true is for whoever runs those jobs elsewhere"

// InPlatformWorkersPlace says what would not run where the settings are those of
// the platform's own worker; nil where they are not, or where that is meant.
func (c Config) InPlatformWorkersPlace() error {
	if len(c.PlatformWorkerSettings) == 0 || c.ReplacePlatformWorker {
		return nil
	}
	return fmt.Errorf("this is the place of the platform's own ops_worker (its settings are here: %s). That process also runs "+
		"alert escalation, the expiry of jobs and of commands, reports, exports and their clean-up, certificates and their revocation, "+
		"and both jobs of over-the-air updates; in its place none of these would run", strings.Join(c.PlatformWorkerSettings, ", "))
}
