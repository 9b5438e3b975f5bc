"""Parquet files as pyarrow writes them, and the texts of their column `text`: python make.py (pip pyarrow), into this folder."""
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent
ROWS = 60


def texts(nulls):
    for i in range(ROWS):
        if nulls and i % 7 == 3:
            yield None
        elif i % 11 == 5:
            yield ""
        elif i % 5 == 0:
            yield f"said again {i % 3}"          # for dictionaries
        else:
            yield f"Zeile {i}: " + "жук 🚀 né\n" * (i % 4) + "x" * (i * 3 % 50)


def write(name, nulls=True, **options):
    column = list(texts(nulls))
    table = pa.table([pa.array(column, pa.string()), pa.array(range(ROWS), pa.int64()), pa.array([[i, i + 1] for i in range(ROWS)])],
                     schema=pa.schema([pa.field("text", pa.string(), nullable=nulls), pa.field("number", pa.int64()),
                                       pa.field("list", pa.list_(pa.int64()))]))
    pq.write_table(table, HERE / f"{name}.parquet", **{"write_statistics": False, **options})
    return column


def main():
    plain = {"use_dictionary": False}
    want = {}
    for codec in "none", "snappy", "gzip", "zstd", "lz4":
        want[codec] = write(codec, compression=codec)
    want["required"] = write("required", nulls=False)
    want["plain"] = write("plain", compression="none", **plain)
    want["second-version"] = write("second-version", data_page_version="2.0", compression="zstd")
    want["second-version-plain"] = write("second-version-plain", data_page_version="2.0", compression="snappy", nulls=False, **plain)
    want["delta-length"] = write("delta-length", column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"}, compression="none", **plain)
    want["delta"] = write("delta", column_encoding={"text": "DELTA_BYTE_ARRAY"}, data_page_version="2.0", compression="gzip", **plain)
    want["groups-and-pages"] = write("groups-and-pages", row_group_size=25, data_page_size=100, write_batch_size=4, compression="none")
    want["nothing"] = []
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), HERE / "nothing.parquet")
    pq.write_table(pa.table({"text": pa.array(["a"])}), HERE / "brotli.parquet", compression="brotli")
    (HERE / "texts.json").write_text(json.dumps({k: [t for t in v if t] for k, v in want.items()}, ensure_ascii=False, indent=0))


main()
