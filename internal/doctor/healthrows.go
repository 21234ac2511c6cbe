package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ops_worker/db"
)

func checkHealthRows(ctx context.Context, r *run, f *findings) error {
	if err := r.require(ctx, "service_health"); err != nil {
		return err
	}
	lease, err := r.holderIfAny(ctx)
	if err != nil {
		return err
	}
	var rows []db.DoctorHealthRowsRow
	if err := r.read(ctx, func(q *db.Queries) (err error) {
		rows, err = q.DoctorHealthRows(ctx)
		return err
	}); err != nil {
		return err
	}

	longest := patience * r.cfg.HealthInterval
	expected := lease.held() > longest
	current := map[string]bool{}
	var oldest time.Duration
	for _, row := range rows {
		old := row.Now.Sub(row.CheckedAt)
		if !r.monitors(row.Service) {
			f.warn(fmt.Sprintf("set %s, or DELETE FROM service_health WHERE service = %s;", variableOf(row.Service), literal(row.Service)),
				"%s (%s) is not monitored, and was checked %s ago for the last time", row.Service, row.Status, age(old))
			continue
		}
		current[row.Service] = true
		oldest = max(oldest, old)
		if expected && old > longest {
			f.warn("see the worker's log for why; HEALTH_CHECK_INTERVAL must be set here as for the worker",
				"%s was checked %s ago, while the lease is held", row.Service, age(old))
		}
	}
	for _, s := range r.targets {
		if expected && !current[s.Name] {
			f.warn("see the worker's log for why; the services must be set here as for the worker", "%s has no row, while the lease is held", s.Name)
		}
	}
	if f.result == OK {
		if len(rows) == 0 {
			f.note("none yet")
		} else {
			f.note("%d services, all checked within %s", len(current), age(oldest))
		}
	}
	return nil
}

func checkSystemAlerts(ctx context.Context, r *run, f *findings) error {
	if err := r.require(ctx, "fleet_alert"); err != nil {
		return err
	}
	var alerts []db.DoctorOpenAlertsRow
	var now time.Time
	err := r.read(ctx, func(q *db.Queries) (err error) {
		if now, err = q.Now(ctx); err != nil {
			return err
		}
		if _, err = q.EnterPlatformScope(ctx); err != nil {
			return err
		}
		alerts, err = q.DoctorOpenAlerts(ctx)
		return err
	})
	if err != nil {
		return err
	}
	open := map[string]int{}
	for _, a := range alerts {
		if open[a.Service]++; open[a.Service] > 1 {
			f.warn(closeAlert(a.Service), "%s has %d open system alerts", a.Service, open[a.Service])
		}
		switch text := fmt.Sprintf("%s: %s for %s", a.Service, strings.ToLower(a.Status), age(now.Sub(a.CreatedAt))); {
		case !r.monitors(a.Service):
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: the service is not monitored", text)
		case !r.cfg.SystemAlerts:
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: SYSTEM_ALERT_ENABLED is off", text)
		default:
			f.note("%s; closed when the service is healthy again", text)
		}
	}
	if len(alerts) == 0 {
		f.note("none is open")
	}
	return nil
}

func closeAlert(service string) string {
	return fmt.Sprintf("UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() WHERE tenant_id = '__system__' "+
		"AND fingerprint = %s AND status <> 'CLOSED';", literal("system-health:"+service))
}

// literal is a text as SQL has it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
