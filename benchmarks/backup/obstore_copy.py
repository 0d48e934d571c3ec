"""Copies a folder to a bucket or back with obstore, which is a library."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
from obstore.store import S3Store


def main() -> None:
    verb, folder, bucket, place = sys.argv[1:]
    store = S3Store(
        bucket,
        prefix=place,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    root = Path(folder)

    def up(path: Path) -> None:
        obstore.put(store, str(path.relative_to(root)), path)

    def down(key: str) -> None:
        target = root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                file.write(piece)

    with ThreadPoolExecutor(4) as pool:
        if verb == "up":
            list(pool.map(up, [path for path in root.rglob("*") if path.is_file()]))
        else:
            keys = [item["path"] for page in obstore.list(store) for item in page]
            list(pool.map(down, keys))


if __name__ == "__main__":
    main()
