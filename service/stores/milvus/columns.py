"""Converts columns of rows between lists and Milvus' messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymilvus import DataType
from pymilvus.grpc_gen import schema_pb2

Column = Sequence[Any] | np.ndarray
Columns = Mapping[str, Column]  # by name, all of one length


def pack(name: str, values: Column) -> Any:
    """Returns a column of vectors [n, dim], or of values with the type of the first."""
    if isinstance(values, np.ndarray):
        vectors = schema_pb2.VectorField(
            dim=values.shape[1], float_vector=schema_pb2.FloatArray(data=values.ravel().tolist())
        )
        return schema_pb2.FieldData(field_name=name, type=DataType.FLOAT_VECTOR, vectors=vectors)
    kind, scalars = _pack_scalars(values)
    return schema_pb2.FieldData(field_name=name, type=kind, scalars=scalars)


def unpack(field: Any) -> Column:
    if field.HasField("vectors"):
        return np.array(field.vectors.float_vector.data, np.float32).reshape(-1, field.vectors.dim)
    kind = field.scalars.WhichOneof("data")
    return list(getattr(field.scalars, kind).data) if kind else []


def _pack_scalars(values: Sequence[Any]) -> tuple[DataType, Any]:
    match values[0]:
        case str():
            return DataType.VARCHAR, schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=values))
        case int():
            return DataType.INT64, schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=values))
        case float():
            return DataType.DOUBLE, schema_pb2.ScalarField(double_data=schema_pb2.DoubleArray(data=values))
        case bytes():
            return DataType.JSON, schema_pb2.ScalarField(json_data=schema_pb2.JSONArray(data=values))
        case _:
            arrays = [schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=each)) for each in values]
            content = schema_pb2.ArrayArray(data=arrays, element_type=schema_pb2.Int64)
            return DataType.ARRAY, schema_pb2.ScalarField(array_data=content)
