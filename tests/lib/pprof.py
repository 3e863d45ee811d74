"""Reads a pprof profile (perftools.profiles.Profile, gzipped) with nothing but its field numbers."""

import gzip


def _fields(data):
    """(field number, value) of a protobuf message; varints as int, the rest as bytes."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while position < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        elif kind == 2:
            length = varint()
            if position + length > len(data):
                raise ValueError("a field runs past the end")
            yield key >> 3, data[position:position + length]
            position += length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            yield key >> 3, data[position:position + length]
            position += length
        else:
            raise ValueError(f"wire type {kind}")


def _signed(value):
    return value - (1 << 64) if value >= 1 << 63 else value


def _packed(value):
    """A repeated integer field, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, number, shift = [], 0, 0
    for byte in value:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number = shift = 0
    return numbers


def _struct(data, repeated=(), messages=()):
    """A message as {field number: value}; repeated integers as one list, messages as a list of bytes."""
    result = {}
    for number, value in _fields(data):
        if number in repeated:
            result.setdefault(number, []).extend(_packed(value))
        elif number in messages:
            result.setdefault(number, []).append(value)
        else:
            result[number] = value
    return result


class Profile:
    """sample_types [(type, unit)]; samples [{stack, values, labels}], stack leaf first, of frames
    {function, system_name, file, line, start_line, address, mapping}; comments; mappings; times in ns."""

    def __init__(self, data):
        raw = _struct(gzip.decompress(data), repeated=(13,), messages=(1, 2, 3, 4, 5, 6))
        strings = [text.decode() for text in raw.get(6, [])]
        if not strings or strings[0] != "":
            raise ValueError("string 0 is not empty")

        def value_type(message):
            fields = _struct(message)
            return strings[fields.get(1, 0)], strings[fields.get(2, 0)]

        self.sample_types = [value_type(message) for message in raw.get(1, [])]
        self.mappings, functions, locations = {}, {}, {}
        for message in raw.get(3, []):
            fields = _struct(message)
            self.mappings[fields[1]] = {"start": fields.get(2, 0), "limit": fields.get(3, 0), "offset": fields.get(4, 0),
                                        "file": strings[fields.get(5, 0)], "build_id": strings[fields.get(6, 0)]}
        for message in raw.get(5, []):
            fields = _struct(message)
            functions[fields[1]] = {"function": strings[fields.get(2, 0)], "system_name": strings[fields.get(3, 0)],
                                    "file": strings[fields.get(4, 0)], "start_line": fields.get(5, 0)}
        for message in raw.get(4, []):
            fields = _struct(message, messages=(4,))
            common = {"mapping": self.mappings.get(fields.get(2, 0)), "address": fields.get(3, 0)}
            lines = [_struct(line) for line in fields.get(4, [])]
            locations[fields[1]] = [{**functions[line[1]], "line": line.get(2, 0), **common} for line in lines] or [
                {"function": "", "system_name": "", "file": "", "start_line": 0, "line": 0, **common}]
        self.samples = []
        for message in raw.get(2, []):
            fields = _struct(message, repeated=(1, 2), messages=(3,))
            labels = {}
            for label in fields.get(3, []):
                parts = _struct(label)
                labels[strings[parts[1]]] = strings[parts[2]] if 2 in parts else _signed(parts.get(3, 0))
            self.samples.append({"stack": [frame for number in fields.get(1, []) for frame in locations[number]],
                                 "values": [_signed(value) for value in fields.get(2, [])], "labels": labels})
        self.time_ns = raw.get(9, 0)
        self.duration_ns = raw.get(10, 0)
        self.period_type = value_type(raw[11]) if 11 in raw else ("", "")
        self.period = raw.get(12, 0)
        self.comments = [strings[number] for number in raw.get(13, [])]
        self.default_sample_type = strings[raw.get(14, 0)]

    def total(self, index):
        return sum(sample["values"][index] for sample in self.samples)
