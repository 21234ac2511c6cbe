# What the API starts and stops around its requests: the part of a main.py that a cut-over edits.
from contextlib import asynccontextmanager

from fastapi import FastAPI

from audit import AuditLogger
from batch import BatchWriter
from routes import operator, system
from tasks.health_monitor import HealthMonitor
from tasks.metrics_collector import MetricsCollector


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.batch_writer = BatchWriter()
    app.state.audit_logger = AuditLogger()
    app.state.health_monitor = HealthMonitor()
    app.state.metrics_collector = MetricsCollector()
    await app.state.batch_writer.start()
    await app.state.audit_logger.start()
    await app.state.health_monitor.start()
    await app.state.metrics_collector.start()
    yield
    await app.state.metrics_collector.stop()
    await app.state.health_monitor.stop()
    await app.state.audit_logger.stop()
    await app.state.batch_writer.stop()


app = FastAPI(lifespan=lifespan)
app.include_router(operator.router)
app.include_router(system.router)
