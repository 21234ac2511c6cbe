package doctor

import (
	"context"
	"fmt"
	"strings"

	"ops_worker/db"
	"ops_worker/internal/humanize"
)

// checkSystemAlerts looks for open alerts that nothing closes.
func checkSystemAlerts(ctx context.Context, r *run, f *findings) error {
	var alerts []db.OpenSystemAlertsRow
	if err := r.database.read(ctx, func(q *db.Queries) error {
		if _, err := q.EnterPlatformScope(ctx); err != nil {
			return err
		}
		var err error
		alerts, err = q.OpenSystemAlerts(ctx)
		return err
	}); err != nil {
		return err
	}
	for _, a := range alerts {
		if !a.Monitored { // another's
			continue
		}
		switch text := fmt.Sprintf("%s: %s for %s", a.Service, strings.ToLower(a.Status), humanize.Age(a.Now.Sub(a.CreatedAt))); {
		case !r.monitors(a.Service):
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: the service is not monitored", text)
		case !r.cfg.SystemAlerts:
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: SYSTEM_ALERT_ENABLED is off", text)
		default:
			f.note("%s; closed when the service is healthy again", text)
		}
	}
	if len(f.found) == 0 {
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
