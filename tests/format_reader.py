# ruff: noqa: B023  (inner functions are used only in the turn of the loop that defines them)
"""A second reader of ``.clipq`` files: plain Python written from docs/format.md alone, slow and without any check.

It imports nothing of the package, so that agreement with it says that the document describes the bytes.
"""

import struct


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        self.at += n
        assert self.at <= len(self.data)
        return self.data[self.at - n : self.at]

    def u8(self):
        return self.take(1)[0]

    def i8(self):
        return struct.unpack("<b", self.take(1))[0]

    def i16(self):
        return struct.unpack("<h", self.take(2))[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def bits(self, width, count):
        whole = int.from_bytes(self.take((width * count + 7) // 8), "little")
        return [whole >> (i * width) & ((1 << width) - 1) for i in range(count)]


def product(numbers):
    result = 1
    for number in numbers:
        result *= number
    return result


# --- probabilities ---------------------------------------------------------------------------------------------------

T = [((1024 + i) ** 256).bit_length() - 1 - 2560 for i in range(1024)]


def log2(x):
    e = x.bit_length() - 1
    eleven = x << 10 >> e
    return 256 * e + T[eleven - 1024]


ODDS = [None] + [log2(q) - log2(32768 - q) for q in range(1, 32768)]


def logistic(s):
    s = min(max(s, -4095), 4095)
    low, high = 1, 32767  # ODDS ascends
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if ODDS[middle] <= s else (low, middle - 1)
    return low


# --- lanes -----------------------------------------------------------------------------------------------------------


def rounded_up(k):
    j = max(k.bit_length() - 3, 0)
    return (k + 2**j - 1) // 2**j * 2**j


class Lanes:
    def __init__(self, stream, lanes):
        """stream: a list of bits."""
        self.stream, self.at = stream, 0
        self.states = [(1 << 21) + self.read(21) for _ in range(lanes)]

    def read(self, n):
        value = 0
        for bit in self.stream[self.at : self.at + n]:
            value = 2 * value + bit
        self.at += n
        assert self.at <= len(self.stream)
        return value

    def close(self, base, rate, to_come):
        keep = base + rounded_up(to_come * rate >> 9)
        closed, self.states = self.states[keep:], self.states[:keep]
        for state in closed:
            self.stream += [state >> k & 1 for k in range(20, -1, -1)]

    def run(self, n, decode, closing=None, after=0):
        """decode(i, slot) -> symbol, share, start of the run's i-th symbol."""
        out = []
        while len(out) < n:
            if closing is not None:
                self.close(*closing, n - len(out) + after)
            step = min(len(self.states), n - len(out))
            for lane in range(step):
                slot = self.states[lane] % 32768
                symbol, share, start = decode(len(out), slot)
                self.states[lane] = share * (self.states[lane] >> 15) + slot - start
                out.append(symbol)
            for lane in range(step):
                lacks = 22 - self.states[lane].bit_length()
                if lacks > 0:
                    self.states[lane] = (self.states[lane] << lacks) + self.read(lacks)
        return out

    def rest(self):
        """All lanes are closed: the bits that are left."""
        self.close(0, 0, 0)
        return self.stream[self.at :]

    def decisions(self, q, closing, after):
        return self.run(len(q), lambda i, s: (1, q[i], 0) if s < q[i] else (0, 32768 - q[i], q[i]), closing, after)

    def symbols(self, shares, n, closing=None):
        table = [(k, share, sum(shares[:k])) for k, share in enumerate(shares) for _ in range(share)]
        return self.run(n, lambda i, slot: table[slot], closing)


def bits_of(data):
    return [byte >> (7 - k) & 1 for byte in data for k in range(8)]


class Head:
    """A string of bits: that of a stream of planes, or of a codebook."""

    def __init__(self, stream):
        self.stream = stream

    def bits(self, n):
        bits, self.stream = self.stream[:n], self.stream[n:]
        assert len(bits) == n
        return int("0" + "".join(map(str, bits)), 2)

    def exp(self, k):
        z = 0
        while self.bits(1) == 0:
            z += 1
        return ((1 << (z + k)) + self.bits(z + k)) - 2**k

    def signed(self, k):
        x = self.exp(k)
        return -(x + 1) // 2 if x % 2 else x // 2


# --- model planes ----------------------------------------------------------------------------------------------------


class Counts:
    def __init__(self):
        self.ones, self.zeros = {}, {}

    def statistic(self, key, mean, prior):
        q = logistic(mean)
        a = max(1, 16 * q * 2**prior >> 15)
        z = max(1, 16 * 2**prior - a)
        return log2(16 * self.ones.get(key, 0) + a) - log2(16 * self.zeros.get(key, 0) + z) - (log2(a) - log2(z))

    def add(self, key, one):
        counts = self.ones if one else self.zeros
        counts[key] = counts.get(key, 0) + 1


def looks_at(kind, e, r, largest):
    """What a plane may look at of magnitudes that are known in part."""
    if largest < 16:
        return "size" if kind == "sign" else None
    return "value" if kind == "sign" or (kind == "bit" and e - r >= 2) else None


def read_setting(head, kind, looks, d, kernel):
    if head.bits(1) == 0:
        if head.bits(1) == 1:
            return {"constant": head.bits(1), "mean": 0}
        allowed = range(4 + d) if kind == "mask" else range(9 + 2 * d)
        allowed = [k for k in allowed if kind == "sign" or k != 4 + d]
        allowed = [k for k in allowed if (looks == "value" or k != 3) and (looks == "size" or k != 8 + 2 * d)]
        allowed = [k for k in allowed if kernel > 1 or k not in (2, 7 + d)]
        chosen = [k for k in allowed if head.bits(1)]
    else:
        chosen = []
    t = head.bits(2)
    s = {"constant": None, "mean": 16 * head.signed(1) * 2**t, "features": []}
    s["bias"] = s["mean"] + 16 * head.signed(3) if chosen else s["mean"]
    s["priors"] = [head.bits(4) if {k, 5 + d + k if k < 3 else k} & set(chosen) else None for k in range(4)]
    for k in chosen:
        sign = -1 if head.bits(1) else 1
        s["features"].append((k, sign * (head.exp(3) + 1)))
    return s


def read_planes(data, rows, columns, kernel, largest):
    t = largest.bit_length()
    names = [("mask", 0, 0)] + [("above", e, 0) for e in range(1, t)]
    names += [("bit", e, r) for e in range(1, t) for r in range(e - 1, -1, -1) if 2**e + 2**r <= largest]
    names += [("sign", 0, 0)]
    stream = bits_of(data)
    head = Head(stream[: len(stream) - 1 - stream[::-1].index(1)])
    e, m = head.bits(4), head.bits(3)
    lanes, mask_rate, sign_rate = (8 + m) * 2**e >> 3, head.exp(1), 18 - head.signed(1)
    slab_rows = head.exp(8) + 1 if head.bits(1) else rows
    together, pause = [(1, 1), (1, 2), (2, 2), (2, 4)][head.bits(2)]
    d = head.exp(0)
    offsets = [head.bits((columns - 2).bit_length()) + 1 for _ in range(d)]
    settings = [read_setting(head, name[0], looks_at(*name, largest), d, kernel) for name in names]
    last = columns * (rows % slab_rows or slab_rows)
    more = rounded_up(last * mask_rate >> 9) if settings[0]["constant"] is None else 0
    coder = Lanes(head.stream, lanes + more)
    in_mask, in_sign = (lanes, mask_rate), (1, sign_rate)
    magnitude, negative = {}, {}
    column_counts, value_counts = [Counts() for _ in names], [Counts() for _ in names]
    for first in range(0, rows, slab_rows):
        height = min(slab_rows, rows - first)
        places = [(i, j) for i in range(height) for j in range(columns)]
        row_group = [i * 0x9E3779B1 % 2**32 >> 28 for i in range(height)]
        column_group = [j * 0x85EBCA77 % 2**32 >> 28 for j in range(columns)]
        phase = {(i, j): (row_group[i] + column_group[j]) % 16 for i, j in places}
        places.sort(key=lambda place: (phase[place], place))
        row_counts, kernel_counts = [Counts() for _ in names], [Counts() for _ in names]
        taken = [{} for _ in names]  # each plane's decisions in this slab

        def neighbours(number, i, j, distance):
            u = 256 * logistic(settings[number]["mean"]) >> 15
            found = [taken[number].get((i, j + k)) for k in (-distance, distance)]
            return sum((256 - u if one else -u) for one in found if one is not None)

        compared = {}

        def likeness(number, i, j):
            x, y = ({p: 1 if one else -1 for p, one in known.items()} for known in (taken[number], compared))
            one, other = (y, x) if columns >= height else (x, y)
            total = 0
            for (k, column), value in other.items():
                if column == j:
                    total += value * sum(one.get((i, m), 0) * y.get((k, m), 0) for m in range(columns))
            return min(max(256 * height * total // len(x), -32767), 32767) if x else 0

        def statistic(number, k, i, j, mean, prior):
            counts = (row_counts, column_counts, kernel_counts)[k][number]
            return counts.statistic((i, j, (i, j // kernel))[k], mean, prior)

        def value(number, i, j):
            kind, _, r = names[number]
            return magnitude.get((first + i, j), 0) >> (r + 1 if kind == "bit" else 0)

        def feature(number, parent, k, i, j):
            s = settings[number]
            if k < 3:
                return statistic(number, k, i, j, s["mean"], s["priors"][k])
            if k == 3:
                return value_counts[number].statistic(value(number, i, j), s["mean"], s["priors"][3])
            if k < 4 + d:
                return neighbours(number, i, j, offsets[k - 4])
            if k == 4 + d:
                return likeness(number, i, j)
            if k == 8 + 2 * d:
                return 256 * min(3, value(number, i, j).bit_length() - 1)
            if k < 8 + d:
                return statistic(parent, k - 5 - d, i, j, settings[parent]["mean"], s["priors"][k - 5 - d])
            return neighbours(parent, i, j, offsets[k - 8 - d])

        def plane(number, parent, mine):
            s = settings[number]
            if s["constant"] is not None:
                return dict.fromkeys(mine, s["constant"])
            result = {}
            runs, stops = [mine], [16]
            if any(k <= 4 + d for k, _ in s["features"]):
                g = together if number else 1
                runs, stops = [[]], []
                for first_phase in range(0, 16, g):
                    if len(runs[-1]) >= 64:
                        runs.append([])
                        stops.append(first_phase)
                    runs[-1] += [p for p in mine if first_phase <= phase[p] < first_phase + g]
                stops.append(16)
            before = 0
            closing = None
            if first + height == rows:
                closing = {0: in_mask, len(names) - 1: in_sign}.get(number)
            for run, stop in zip(runs, stops, strict=True):
                q = []
                for i, j in run:
                    total = sum(w * feature(number, parent, k, i, j) for k, w in s["features"])
                    q.append(logistic(s["bias"] + (total >> 4)))
                after = len(mine) - len(result) - len(run)
                for place, one in zip(run, coder.decisions(q, closing, after), strict=True):
                    result[place] = one
                for place in run:
                    taken[number][place] = result[place]
                    row_counts[number].add(place[0], result[place])
                    column_counts[number].add(place[1], result[place])
                    kernel_counts[number].add((place[0], place[1] // kernel), result[place])
                    value_counts[number].add(value(number, *place), result[place])
                if stop // pause > before and names[number][0] == "sign":
                    before = stop // pause
                    compared.update(taken[number])
            return result

        number = {name: k for k, name in enumerate(names)}
        kept = [p for p, one in plane(0, None, places).items() if one]
        kept = [p for p in places if p in set(kept)]
        if first + height == rows:
            coder.close(*in_sign, len(kept))
        for i, j in kept:
            magnitude[first + i, j] = 1
        mine = kept
        for e in range(1, t):
            ones = plane(number["above", e, 0], number["above", e - 1, 0] if e > 1 else 0, mine)
            mine = [p for p in mine if ones[p]]
            for i, j in mine:
                magnitude[first + i, j] = 1 << e
        exponent = {p: magnitude[first + p[0], p[1]].bit_length() - 1 for p in kept}
        for e in range(1, t):
            mine = [p for p in kept if exponent[p] == e]
            for r in [r for kind, of, r in names if kind == "bit" and of == e]:
                for (i, j), one in plane(number["bit", e, r], number["above", e, 0], mine).items():
                    magnitude[first + i, j] |= one << r
        for (i, j), one in plane(number["sign", 0, 0], 0, kept).items():
            negative[first + i, j] = one
    matrix = [[(magnitude.get((i, j), 0), negative.get((i, j), 0)) for j in range(columns)] for i in range(rows)]
    return matrix, coder.rest()


# --- sections --------------------------------------------------------------------------------------------------------


def level(bits, zeros, x, k):
    ones = 0
    while ones < 16 and bits.bits(1):
        ones += 1
    if ones == 16:
        return bits.bits(32 - zeros)
    u = (ones << k) + bits.bits(k)
    return x + u // 2 if u % 2 == 0 else x - (u + 1) // 2


def read_codebook(stream, codes, size, h):
    """The bits of the levels of all codes; codes: those that occur."""
    bits = Head(stream)
    zeros = bits.bits(5)
    w, errors, first, found = 23 - zeros, 400, None, {}

    def parts(v):
        e = v >> w
        return v % 2**w + (2**w if e else 0), max(e, 1)

    down, up = ([c for c in order if c in codes] for order in (range(h, 0, -1), range(h + 1, size + 1)))
    for side, sign in ((down, 2**31), (up, 0)):
        for i, code in enumerate(side):
            if i == 0:
                x, k = (0x3D000000 >> zeros, 25 - zeros) if first is None else (first, max(22 - zeros, 0))
                v = level(bits, zeros, x, k)
                first = v if first is None else first
                distance = max(parts(v)[0] >> 2, 1)
            else:
                c, (m, e) = abs(code - side[i - 1]), parts(v)
                r = m + c * distance
                g = max(r.bit_length() - w - 1, 0)
                x = ((e + g - 1) << w) + (r >> g)
                s = x - v
                v = level(bits, zeros, x, max((5 * errors * s >> 11).bit_length() - 1, 0))
                errors += min(512, 256 * abs(v - x) // s) - (errors >> 2)
                g = max(parts(v)[1] - e, 0)
                new = (parts(v)[0] - (m >> g)) // c
                distance = max(1, new if i == 1 else (new + (distance >> g)) >> 1)
            found[code] = v << zeros ^ sign
    ascending = sorted(found)
    levels = []
    for code in range(1, size + 1):
        before = [c for c in ascending if c <= code] or ascending[:1]
        levels.append(found[before[-1]] if before else 0)
    return levels


def read_entropy_layer(reader, shape, b):
    """Codes, flat, and the bits of the levels."""
    model, h, n = reader.u8(), 2 ** (b - 1), product(shape)
    if model == 0:
        return [0] * n, [0] * (2**b - 1)
    if model & 4:
        model, h = model - 4, reader.u8()
    size = 2**b - 1
    if model == 1:
        rows = shape[0] if len(shape) > 1 else 1
        matrix, rest = read_planes(
            reader.take(len(reader.data) - reader.at), rows, n // rows, product(shape[2:]), max(h, size - h)
        )
        flat = [pair for row in matrix for pair in row]
        codes = [(h + 1 - m if negative else h + m) if m else 0 for m, negative in flat]
        return codes, read_codebook(rest, set(codes) - {0}, size, h)
    codes, coder = read_patterns(reader, n, size)
    return codes, read_codebook(coder.rest(), set(codes) - {0}, size, h)


def read_patterns(reader, n, size):
    """Codes and what is left of the lanes' stream."""
    lanes, rate = reader.varint(), reader.u8()
    patterns = [reader.varint() if occurs else 0 for occurs in reader.bits(1, 256)]
    shares = [reader.varint() if occurs else 0 for occurs in reader.bits(1, size)]
    n_written = reader.varint()
    stand_in = reader.u8() if n_written else None
    written = list(reader.take(n_written))
    n_bits = reader.varint()
    coder = Lanes(bits_of(reader.take((n_bits + 7) // 8))[:n_bits], lanes)
    eights = [written.pop(0) if p == stand_in else p for p in coder.symbols(patterns, (n + 7) // 8)]
    mask = [eight >> k & 1 for eight in eights for k in range(8)][:n]
    kept = iter(coder.symbols(shares, sum(mask), (1, rate)))
    return [next(kept) + 1 if one else 0 for one in mask], coder


def read_float_tensor(reader, n, exponent_bits, mantissa_bits):
    form, largest, spread, zeros = reader.u8(), reader.u8(), reader.u8(), reader.u8()
    width = mantissa_bits - zeros
    if form == 3:
        (row,), _ = read_planes(reader.take(reader.varint()), 1, n, 1, spread)
        mantissas = iter(reader.bits(width, sum(d > 0 for d, _ in row)))
        apart = [(d, sign, next(mantissas) if d else 0) for d, sign in row]
    else:
        codes, _ = read_patterns(reader, n, 2 ** max(spread.bit_length(), 2) - 1)
        stored = iter(reader.bits(width + 1, sum(d > 0 for d in codes)))
        apart = [(d, *divmod(next(stored) if d else 0, 1 << width)) for d in codes]
    return [
        sign << (exponent_bits + mantissa_bits) | (largest + 1 - d) << mantissa_bits | mantissa << zeros if d else 0
        for d, sign, mantissa in apart
    ]
