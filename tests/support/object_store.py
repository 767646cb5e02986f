"""An S3-compatible server in this process, with a bucket `calls`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import boto3
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

S3_KEY, S3_SECRET = "recorder-access-key", "recorder-secret-key"


@asynccontextmanager
async def object_store() -> AsyncIterator[tuple[str, S3Store]]:
    """An S3 server in this process with a bucket `calls`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    await asyncio.to_thread(server.start)
    _, port = server.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    store = S3Store(
        "calls",
        endpoint=url,
        region="us-east-1",
        access_key_id=S3_KEY,
        secret_access_key=S3_SECRET,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    await asyncio.to_thread(s3_backends.reset)
    await asyncio.to_thread(client.create_bucket, Bucket="calls")
    client.close()
    try:
        yield url, store
    finally:
        await asyncio.to_thread(server.stop)
