package cutovertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheCommandTellsTheReleases runs the guide's command on main.py files as people
// write them; what it cannot tell it refuses, since a wrong part stops other jobs.
func TestTheCommandTellsTheReleases(t *testing.T) {
	t.Parallel()
	gathers := func(arguments string) string {
		return "async def main():\n    await asyncio.gather(" + arguments + ")\n\nasyncio.run(main())\n"
	}
	for name, test := range map[string]struct {
		services, worker, api string // what the compose file has, and the two main.py
		want                  string
		status                int
	}{
		"the API's":                  {services: "ui_iot", api: "health_monitor.start()", want: `"API"`},
		"another service's name":     {services: "my_ops_worker", api: "HealthMonitor()", worker: gathers("run_health_monitor(), run_metrics_collector()"), want: `"API"`},
		"the two, a line each":       {services: "ops_worker", worker: gathers("\n        run_health_monitor(pool),\n        run_metrics_collector(pool),\n    "), want: `"Replace"`},
		"the two, on one line":       {services: "ops_worker", worker: gathers("run_health_monitor(), run_metrics_collector()"), want: `"Replace"`},
		"as methods, with an option": {services: "ui_iot\nops_worker", worker: gathers("HealthMonitor(a, b).run(), MetricsCollector([c, d]).run(), return_exceptions=True"), want: `"Replace"`},
		"a job in a comment":         {services: "ops_worker", worker: gathers("run_health_monitor(),\r\n # run_exports(),\r\n run_metrics_collector()"), want: `"Replace"`},
		"another gather at the end":  {services: "ops_worker", worker: gathers("run_health_monitor(), run_metrics_collector()") + "await asyncio.gather(*left, return_exceptions=True)", want: `"Replace"`},
		"one more":                   {services: "ops_worker", worker: gathers("run_health_monitor(), run_metrics_collector(), run_exports()"), want: `and 1 more: go on with "Beside"`},
		"nine more, in a helper":     {services: "ops_worker", worker: gathers("run_health_monitor(), run_metrics_collector()" + strings.Repeat(",\n  worker_loop(job, pool, interval=60)", 9)), want: `and 9 more: go on with "Beside"`},

		"no compose file":          {want: "names no service", status: 1},
		"nobody's":                 {services: "ui_iot", want: "nothing beside", status: 1},
		"no source":                {services: "ops_worker", want: "there is no services/ops_worker/main.py", status: 1},
		"already taken out":        {services: "ops_worker", worker: gathers("run_exports()"), want: "has 0 of the two", status: 1},
		"one taken out":            {services: "ops_worker", worker: gathers("run_health_monitor(), run_exports()"), want: "has 1 of the two", status: 1},
		"a list":                   {services: "ops_worker", worker: "jobs = [run_health_monitor(), run_metrics_collector()]\n" + gathers("*jobs"), want: "has 0 of the two", status: 1},
		"started in another way":   {services: "ops_worker", worker: "asyncio.create_task(run_exports())\n" + gathers("run_health_monitor(), run_metrics_collector()"), want: "outside its gather", status: 1},
		"parentheses do not match": {services: "ops_worker", worker: "gather(run_health_monitor(), run_metrics_collector()", want: "has 0 of the two", status: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for folder, source := range map[string]string{"ops_worker": test.worker, "ui_iot": test.api} {
				path := filepath.Join(dir, "services", folder)
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
				if source == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(path, "main.py"), []byte(source), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			script, err := filepath.Abs(root + "/scripts/platform-release.sh")
			if err != nil {
				t.Fatal(err)
			}
			command := exec.CommandContext(t.Context(), "sh", script, test.services, "ops_worker", "services/ops_worker/main.py", "services/ui_iot/main.py")
			command.Dir = dir
			output, err := command.CombinedOutput()
			if status := command.ProcessState.ExitCode(); status != test.status || !strings.Contains(string(output), test.want) {
				t.Errorf("status %d (%v), %q; want %d, %q", status, err, output, test.status, test.want)
			}
		})
	}
}
