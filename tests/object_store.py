"""A real server that speaks S3, on loopback: moto's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, with the client of another library to look into it."""

    address: str  # s3://NAME
    client: Any

    @property
    def name(self) -> str:
        return self.address.removeprefix("s3://")

    def put(self, key: str, content: bytes) -> str:
        """Writes an object, whatever is there; returns its address."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return f"{self.address}/{key}"

    def put_folder(self, folder, key: str) -> str:
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{key}/{file.relative_to(folder)}", file.read_bytes())
        return f"{self.address}/{key}"

    def content(self) -> dict[str, bytes]:
        """Every object by its key."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {o["Key"]: self.client.get_object(Bucket=self.name, Key=o["Key"])["Body"].read() for o in listed}


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def bucket_on(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket; the environment names the server and its keys."""
    import boto3
    import s3fs

    names = {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for key, value in names.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    return Bucket(f"s3://{name}", client)
