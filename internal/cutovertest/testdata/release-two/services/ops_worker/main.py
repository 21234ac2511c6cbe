# The platform's worker in the release that first had one: the two tasks alone.
import asyncio

from database import open_pool
from health_monitor import run_health_monitor
from metrics_collector import run_metrics_collector


async def main():
    pool = await open_pool()
    await asyncio.gather(
        run_health_monitor(pool),
        run_metrics_collector(pool),
    )


if __name__ == "__main__":
    asyncio.run(main())
