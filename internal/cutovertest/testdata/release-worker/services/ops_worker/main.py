# The jobs of the platform's own worker, in one process: the part of a main.py that a cut-over edits.
import asyncio

from certificates import run_certificate_revocation
from commands import run_command_expiry
from database import open_pool
from escalation import run_alert_escalation
from exports import run_export_cleanup, run_exports
from health_monitor import run_health_monitor
from jobs import run_job_expiry
from metrics_collector import run_metrics_collector
from ota import run_ota_campaigns, run_ota_status
from reports import run_reports


async def main():
    pool = await open_pool()
    await asyncio.gather(
        run_health_monitor(pool),
        run_metrics_collector(pool),
        run_alert_escalation(pool),
        run_job_expiry(pool),
        run_command_expiry(pool),
        run_reports(pool),
        run_exports(pool),
        run_export_cleanup(pool),
        run_certificate_revocation(pool),
        run_ota_campaigns(pool),
        run_ota_status(pool),
    )


if __name__ == "__main__":
    asyncio.run(main())
