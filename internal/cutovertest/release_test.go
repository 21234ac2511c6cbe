package cutovertest

import (
	"cmp"
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
	const two = "run_health_monitor(), run_metrics_collector()"
	gathers := func(arguments string) string {
		return "async def main():\n    await asyncio.gather(" + arguments + ")\n\nasyncio.run(main())\n"
	}
	before := func(code string) string { return code + "\n" + gathers(two) }
	for name, test := range map[string]struct {
		services, worker, api string // what the compose file has (ops_worker unless said), and the two main.py
		want                  string
		status                int
	}{
		"the API's, started":                  {services: "ui_iot", api: "health_monitor.start()\nmetrics_collector.start()", want: `"API"`},
		"the API's, made":                     {services: "ui_iot", api: "x = HealthMonitor()\ny = MetricsCollector(f\"{a['b']}\")", want: `"API"`},
		"the two, a line each":                {worker: gathers("\n        run_health_monitor(pool),\n        run_metrics_collector(pool),\n    "), want: `"Replace"`},
		"the two, on one line":                {worker: gathers(two), want: `"Replace"`},
		"the two, the other way round":        {worker: gathers("tasks.metrics_collector_loop(), tasks.health_monitor_loop()"), want: `"Replace"`},
		"as methods, with an option":          {services: "ui_iot\nops_worker", worker: gathers("HealthMonitor(a, b).run(), MetricsCollector(c, d).run(), return_exceptions=True"), want: `"Replace"`},
		"lines from Windows":                  {services: "ops_worker\r\nui_iot", worker: strings.ReplaceAll(gathers(two), "\n", "\r\n"), want: `"Replace"`},
		"a job in a comment":                  {worker: gathers("run_health_monitor(),\r\n # run_exports(),\r\n run_metrics_collector()"), want: `"Replace"`},
		"a job in a string":                   {worker: before(`"""create_task(run_exports())"""`), want: `"Replace"`},
		"a pool, a signal, the log":           {worker: before("logger.info(f'of {name}')\npool = await asyncpg.create_pool(dsn)\nloop.add_signal_handler(SIGTERM, stop.set)\nawait stop_event.wait()\nawait pool.close()"), want: `"Replace"`},
		"one more":                            {worker: gathers(two + ", run_exports()"), want: `and 1 more: go on with "Beside"`},
		"one more, lines from Windows":        {worker: gathers(two + ",\r\n run_exports(),\r\n"), want: `and 1 more: go on with "Beside"`},
		"nine more, in a helper":              {worker: gathers(two + strings.Repeat(",\n  worker_loop(job, pool, interval=60)", 9)), want: `and 9 more: go on with "Beside"`},
		"all in a helper":                     {worker: gathers("run(health_monitor.run), run(metrics_collector.run), run(escalation.run, 'health_monitor')"), want: `and 1 more: go on with "Beside"`},
		"a comment's sign in a string":        {worker: gathers("run_health_monitor(), run_metrics_collector(channel='#ops'), escalate(), expire()"), want: `and 2 more: go on with "Beside"`},
		"a parenthesis in a string":           {worker: gathers("run_health_monitor(smile=':)'), run_metrics_collector(), escalate()"), want: `and 1 more: go on with "Beside"`},
		"the name of a task in a job's":       {worker: gathers(two + ", run_metrics_collector_cleanup()"), want: `and 1 more: go on with "Beside"`},
		"the name of a task in a job's words": {worker: gathers(two + `, cleanup(after="metrics_collector")`), want: `and 1 more: go on with "Beside"`},
		"a job beside an endpoint":            {worker: gathers(two + ", serve_health(8080), escalate()"), want: `and 1 more: go on with "Beside"`},

		"no compose file":                {services: "\n", want: "names no service", status: 1},
		"nobody's":                       {services: "ui_iot", want: "no services/ui_iot/main.py", status: 1},
		"the API's, one":                 {services: "ui_iot", api: "health_monitor.start()", want: "services/ui_iot/main.py starts 1 of the two", status: 1},
		"the API's comment":              {services: "ui_iot", api: "# HealthMonitor() and MetricsCollector()", want: "starts 0 of the two", status: 1},
		"the API's docstring":            {services: "ui_iot", api: "'''HealthMonitor() and\nMetricsCollector()'''", want: "starts 0 of the two", status: 1},
		"the API's imports":              {services: "ui_iot", api: "from tasks import health_monitor, metrics_collector", want: "starts 0 of the two", status: 1},
		"the API's routes":               {services: "ui_iot", api: "def health_monitor():\n return metrics_collector.latest()", want: "starts 0 of the two", status: 1},
		"both start them":                {api: "HealthMonitor().start()", worker: gathers(two), want: "starts 1 of the two tasks as well", status: 1},
		"an open string in the API":      {api: "x = 'y", worker: gathers(two), want: "of services/ui_iot/main.py are not plain", status: 1},
		"another spelling":               {services: "ui_iot\niot-ops-worker", api: "HealthMonitor(), MetricsCollector()", want: "but iot-ops-worker in the compose file", status: 1},
		"another case":                   {services: "OpsWorker", api: "HealthMonitor(), MetricsCollector()", want: "but OpsWorker in the compose file", status: 1},
		"hidden by a profile":            {services: "ui_iot", api: "HealthMonitor(), MetricsCollector()", worker: gathers(two), want: "a profile may hide", status: 1},
		"no source":                      {want: "there is no services/ops_worker/main.py", status: 1},
		"already taken out":              {worker: gathers("run_exports()"), want: "does not have each of the two", status: 1},
		"one taken out":                  {worker: gathers("run_health_monitor(), run_exports()"), want: "does not have each of the two", status: 1},
		"one twice":                      {worker: gathers("run_health_monitor(a), run_health_monitor(b)"), want: "does not have each of the two", status: 1},
		"both in one":                    {worker: gathers("worker(health_monitor, metrics_collector), escalate(metrics_collector)"), want: "does not have each of the two", status: 1},
		"as words":                       {worker: gathers("run('health_monitor'), run('metrics_collector')"), want: "does not have each of the two", status: 1},
		"a list":                         {worker: "jobs = [run_health_monitor(), run_metrics_collector()]\n" + gathers("*jobs"), want: "plain calls: *jobs", status: 1},
		"a list within":                  {worker: gathers("*[run_health_monitor(), escalate()], run_metrics_collector()"), want: "plain calls: *[", status: 1},
		"a further list":                 {worker: gathers(two + ", *jobs"), want: "plain calls: *jobs", status: 1},
		"a list in a helper":             {worker: gathers("supervise([escalate, expire], run_health_monitor), run_metrics_collector()"), want: "plain calls: supervise", status: 1},
		"a job in a helper":              {worker: gathers("supervise(escalate, run_health_monitor), run_metrics_collector()"), want: "through something else: supervise", status: 1},
		"a job in an argument":           {worker: gathers("run_health_monitor(escalate()), run_metrics_collector()"), want: "through something else: run_health_monitor", status: 1},
		"a job or none":                  {worker: gathers(two + ", escalate() if ENABLED else noop()"), want: "plain calls: escalate", status: 1},
		"a gather in a gather":           {worker: gathers("asyncio.gather(escalate(), run_health_monitor()), run_metrics_collector()"), want: "or several", status: 1},
		"a gather beside":                {worker: before("await asyncio.gather(escalate(), expire())"), want: "or several", status: 1},
		"a gather at the end":            {worker: gathers(two) + "await asyncio.gather(*left, return_exceptions=True)", want: "or several", status: 1},
		"a gather of gathers":            {worker: "async def collectors():\n    await asyncio.gather(" + two + ")\n" + gathers("collectors(), escalate()"), want: "or several", status: 1},
		"a gather by another name":       {worker: "from asyncio import gather as g\nawait g(" + two + ", escalate())", want: "has no gather", status: 1},
		"a gather in a docstring":        {worker: "\"\"\"Was\ngather(" + two + ").\"\"\"\nrun(JOBS)", want: "has no gather", status: 1},
		"a gather in a string":           {worker: `x = "\"gather(` + two + `)"`, want: "has no gather", status: 1},
		"a gather within":                {worker: "asyncio.run(asyncio.gather(" + two + "))", want: "within something else", status: 1},
		"a gather in a branch":           {worker: "if OLD: await asyncio.gather(" + two + ")\nelse: await all_jobs()", want: "within something else", status: 1},
		"a wait for the end":             {worker: gathers(two + ", stop.wait()"), want: "may only wait or serve", status: 1},
		"an endpoint":                    {worker: gathers(two + ", serve_health(8080)"), want: "may only wait or serve", status: 1},
		"a task":                         {worker: before("asyncio.create_task (run_exports())"), want: "too: asyncio.create_task(", status: 1},
		"a group of tasks":               {worker: before("async with asyncio.TaskGroup() as tg:\n    tg.start_soon(escalate)"), want: "too: asyncio.TaskGroup(", status: 1},
		"a group that is there":          {worker: before("async with runner as r:\n    pass"), want: "with runner", status: 1},
		"an executor":                    {worker: before("loop.run_in_executor(None, escalate)"), want: "too: loop.run_in_executor(", status: 1},
		"a thread":                       {worker: before("t.start ()"), want: "too: t.start(", status: 1},
		"a thread behind a semicolon":    {worker: before("x = 1; Thread(target=escalate).start()"), want: "too: Thread(", status: 1},
		"a scheduler":                    {worker: before("s.add_job(escalate, 'interval')"), want: "too: s.add_job(", status: 1},
		"a call later":                   {worker: before("loop.call_later(60, escalate)"), want: "too: loop.call_later(", status: 1},
		"a helper that starts":           {worker: before("await start_background_jobs(pool)"), want: "too: start_background_jobs(", status: 1},
		"a helper over two lines":        {worker: before("await \\\n start_background_jobs (pool)"), want: "too: start_background_jobs(", status: 1},
		"a name over two lines":          {worker: before("await \\\r\n everything\r\n"), want: "await everything", status: 1},
		"a task on the gather's line":    {worker: "await asyncio.gather(" + two + "); create_task(x())", want: "too: create_task(", status: 1},
		"what is awaited by its name":    {worker: before("await everything"), want: "await everything", status: 1},
		"a call from a table":            {worker: before("JOBS[0]()"), want: "too: 0](", status: 1},
		"a call in an f-string":          {worker: before(`x = f"{start_all()}"`), want: "too: f_string(", status: 1},
		"quotes in an f-string":          {worker: before(`x = f"{d["#"]}"; start_all()`), want: "cannot tell: services/ops_worker/main.py", status: 1},
		"a decorator":                    {worker: before("@every_minute\ndef main(): pass"), want: "too: @every_minute", status: 1},
		"a letter that is not plain":     {worker: before("é()"), want: "letters of services/ops_worker/main.py are not plain", status: 1},
		"parentheses do not match":       {worker: "gather(" + two, want: "of services/ops_worker/main.py are not plain", status: 1},
		"parentheses match in a comment": {worker: "gather(" + two + " # )", want: "of services/ops_worker/main.py are not plain", status: 1},
		"an open string":                 {worker: before("x = '"), want: "of services/ops_worker/main.py are not plain", status: 1},
		"two open strings":               {worker: before("x = '\nstart_all()\ny = '"), want: "of services/ops_worker/main.py are not plain", status: 1},
		"an open docstring":              {worker: gathers(two) + `"""`, want: "of services/ops_worker/main.py are not plain", status: 1},
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
			services := cmp.Or(test.services, "ops_worker")
			output, status := platformRelease(t, dir, services, "ops_worker", "services/ops_worker/main.py", "services/ui_iot/main.py")
			if status != test.status || !strings.Contains(output, test.want) {
				t.Errorf("status %d, %q; want %d, %q", status, output, test.status, test.want)
			}
		})
	}
}

func TestTheCommandSaysHowItIsUsed(t *testing.T) {
	t.Parallel()
	output, status := platformRelease(t, t.TempDir(), "ops_worker")
	if status != 2 || !strings.HasPrefix(output, "usage: ") || strings.Count(output, "\n") != 1 {
		t.Errorf("status %d, %q; want 2 and a line of usage", status, output)
	}
}

func platformRelease(t *testing.T, dir string, arguments ...string) (output string, status int) {
	t.Helper()
	script, err := filepath.Abs(root + "/scripts/platform-release.sh")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(script); err != nil { // go test runs again, rather than from its cache, when the script changes
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "sh", append([]string{script}, arguments...)...)
	command.Dir = dir
	text, err := command.CombinedOutput()
	if command.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), command.ProcessState.ExitCode()
}
