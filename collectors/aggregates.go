package collectors

import (
	"time"

	"ops_worker/db"
)

// Aggregates are the queries of sql/queries/aggregates.sql, and how often each is due.
// A new query needs a line here; a new number of an existing query does not.
//
// Those that read the platform's tables come last, since its role holds until the end
// of the transaction. The slowest of these come last: they take no time from the others.
var Aggregates = []db.Aggregate{
	{Name: "database", Read: db.Reads((*db.Queries).DatabaseSamples)},
	{Name: "size", Read: db.Reads((*db.Queries).SizeSamples)},
	{Name: "activity", Read: db.Reads((*db.Queries).ActivitySamples), Every: time.Minute},
	{Name: "locks", Read: db.Reads((*db.Queries).LockSamples), Every: time.Minute},
	{Name: "database totals", Read: db.Reads((*db.Queries).DatabaseTotalSamples), Every: time.Minute},
	{Name: "wal", Read: db.Reads((*db.Queries).WalSamples), Every: time.Minute},
	{Name: "replication lag", Read: db.Reads((*db.Queries).ReplicationLagSamples), Every: time.Minute},
	{Name: "replication bytes", Read: db.Reads((*db.Queries).ReplicationByteSamples), Every: time.Minute},
	{Name: "tables", Read: db.Reads((*db.Queries).TableSamples), Every: 5 * time.Minute},
	{Name: "tenants", Read: db.Reads((*db.Queries).TenantSamples), Platform: true, Every: 5 * time.Minute},
	{Name: "rules", Read: db.Reads((*db.Queries).RuleSamples), Platform: true, Every: 5 * time.Minute},
	{Name: "integrations", Read: db.Reads((*db.Queries).IntegrationSamples), Platform: true, Every: 5 * time.Minute},
	{Name: "alerts", Read: db.Reads((*db.Queries).AlertSamples), Platform: true},
	{Name: "deliveries", Read: db.Reads((*db.Queries).DeliverySamples), Platform: true},
	{Name: "alert totals", Read: db.Reads((*db.Queries).AlertTotalSamples), Platform: true, Every: 5 * time.Minute},
	{Name: "delivery totals", Read: db.Reads((*db.Queries).DeliveryTotalSamples), Platform: true, Every: time.Minute},
	{Name: "registry", Read: db.Reads((*db.Queries).RegistrySamples), Platform: true, Every: 5 * time.Minute},
	{Name: "devices", Read: db.Reads((*db.Queries).DeviceSamples), Platform: true},
	{Name: "devices offline", Read: db.Reads((*db.Queries).OfflineSamples), Platform: true, Every: 5 * time.Minute},
}

// seldom is how often samples are stored whose query comes more often for the sake of
// others.
var seldom = map[string]time.Duration{
	"deliveries_succeeded": 5 * time.Minute,
	"deliveries_failed":    5 * time.Minute,
	"deliveries_24h":       5 * time.Minute,
}
