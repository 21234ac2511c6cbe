# What the API starts and stops around its requests. In this release the health monitor and the metrics collector are no
# longer among them.
from contextlib import asynccontextmanager

from fastapi import FastAPI

from audit import AuditLogger
from batch import BatchWriter


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.batch_writer = BatchWriter()
    app.state.audit_logger = AuditLogger()
    await app.state.batch_writer.start()
    await app.state.audit_logger.start()
    yield
    await app.state.audit_logger.stop()
    await app.state.batch_writer.stop()


app = FastAPI(lifespan=lifespan)
