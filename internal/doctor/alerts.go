package doctor

import (
	"context"
	"fmt"
	"strings"

	"ops_worker/db"
	"ops_worker/internal/humanize"
)

// checkSystemAlerts looks for open alerts that nothing closes, and for health rows that
// nothing refreshes: both are left by an older monitor, or by a service that is gone.
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
		text := fmt.Sprintf("%s: %s for %s", a.Service, strings.ToLower(a.Status), humanize.Age(a.Now.Sub(a.CreatedAt)))
		switch closes := r.closes(a.Service); {
		case closes == "":
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: the service is not monitored", text)
		case !r.cfg.SystemAlerts:
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: SYSTEM_ALERT_ENABLED is off", text)
		default:
			f.note("%s; closed when %s is healthy again", text, closes)
		}
	}
	for _, service := range r.lease.newest.LeftBehind {
		f.warn(deleteRow(service), "%s: service_health has a row of it, and nothing refreshes it: the service is not monitored", service)
	}
	if len(f.found) == 0 {
		f.note("none is open")
	}
	return nil
}

// closes is the monitored service whose recovery closes an alert of this name, "" if
// none does.
func (r *run) closes(name string) string {
	for _, s := range r.cfg.Services {
		if name == s.Name || name == s.Former {
			return s.Name
		}
	}
	return ""
}

func closeAlert(service string) string {
	return fmt.Sprintf("UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() WHERE tenant_id = '__system__' "+
		"AND fingerprint = %s AND status <> 'CLOSED';", literal("system-health:"+service))
}

func deleteRow(service string) string {
	return fmt.Sprintf("DELETE FROM service_health WHERE service = %s;", literal(service))
}

// literal is a text as SQL has it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
