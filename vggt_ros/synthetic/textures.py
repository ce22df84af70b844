"""Procedural textures of walls, floors and plain materials; deterministic from the generator.

Each function returns a `Material`: a painter that fills a face of any size [m] and its texel
size. Patterns have the size of the real thing and contrast falls with frequency as in
photographs, so that features are found without the texture being noise. Painting is done in grey
values (0-255, gamma encoded), float32.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.synthetic.primitives import Material
from vggt_ros.types import Float32, Image

Colour = tuple[float, float, float]
Random = np.random.Generator


def shape_of(width_m: float, height_m: float, texel_m: float) -> tuple[int, int]:
    """(rows, columns) of a texture, at least 2 x 2, at most 4096."""
    rows, columns = (int(np.clip(round(s / texel_m), 2, 4096)) for s in (height_m, width_m))
    return rows, columns


def to_image(values: Float32) -> Image:
    """Round and clip."""
    return np.ascontiguousarray(np.clip(values + 0.5, 0, 255), np.uint8)


def smooth_noise(
    shape: tuple[int, int], random: Random, period: float | tuple[float, float]
) -> Float32:
    """(rows, columns) of band-limited noise, standard deviation about 1.

    `period` [texels] of the finest structure: one number, or (rows, columns).
    """
    py, px = period if isinstance(period, tuple) else (period, period)
    rows = max(int(np.ceil(shape[0] / max(py, 1.0))) + 1, 2)
    columns = max(int(np.ceil(shape[1] / max(px, 1.0))) + 1, 2)
    grid = random.standard_normal((rows, columns)).astype(np.float32)
    noise = cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(noise * 1.3, np.float32)


def natural_noise(
    shape: tuple[int, int], random: Random, coarse: float, fine: float, falloff: float = 0.75
) -> Float32:
    """Octaves from period `coarse` to `fine` [texels], amplitude times `falloff` per octave."""
    total = np.zeros(shape, np.float32)
    amplitude, power, period = 1.0, 0.0, float(coarse)
    while period >= fine:
        total += np.float32(amplitude) * smooth_noise(shape, random, period)
        power += amplitude**2
        amplitude *= falloff
        period /= 2
    return np.asarray(total / np.float32(np.sqrt(max(power, 1e-9))), np.float32)


def flat(shape: tuple[int, int], colour: Colour) -> Float32:
    """(rows, columns, 3) of one colour."""
    return np.broadcast_to(np.array(colour, np.float32), (*shape, 3)).copy()


def blank(colour: Colour = (190, 190, 190)) -> Material:
    """No texture at all: what stereo and structure from motion must refuse."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        return to_image(flat((2, 2), colour))

    return Material(paint)


def picture(image: Image) -> Material:
    """A given image (h, w, 3), stretched over the face."""
    image = np.ascontiguousarray(image, np.uint8)

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        return image

    return Material(paint)


def clouds(texel_m: float = 0.004) -> Material:
    """Smooth multi-scale colour blobs: texture everywhere and without repetition."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        canvas = flat(shape, (128, 128, 128))
        common = natural_noise(shape, random, 0.5 / texel, 4, 0.85)
        for c in range(3):
            canvas[..., c] += 30 * common + 12 * natural_noise(shape, random, 0.4 / texel, 6)
        return to_image(canvas)

    return Material(paint, texel_m)


def plaster(colour: Colour = (205, 196, 178), contrast: float = 1.0) -> Material:
    """Hand-trowelled lime plaster: clouds of tone, strokes, a few hairline cracks and stains."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        canvas = flat(shape, colour)
        tone = 7 * natural_noise(shape, random, 0.9 / texel, 0.1 / texel, 0.8)
        strokes = np.zeros(shape, np.float32)
        for aspect in ((0.010, 0.10), (0.09, 0.012), (0.006, 0.05)):
            layer = smooth_noise(shape, random, (aspect[0] / texel, aspect[1] / texel))
            mask = np.clip(smooth_noise(shape, random, 0.25 / texel), 0, 1.5)
            strokes += layer * mask
        grain = smooth_noise(shape, random, 0.006 / texel)
        canvas += np.float32(contrast) * (tone + 5.0 * strokes + 1.5 * grain)[..., None]
        canvas[..., 2] -= 4 * natural_noise(shape, random, 1.2 / texel, 0.3 / texel)
        _cracks(canvas, random, texel, count=int(3 * width))
        _stains(canvas, random, texel, count=int(4 * width))
        return to_image(canvas)

    return Material(paint, 0.003)


def brick(mortar: Colour = (168, 160, 150), base: Colour = (142, 82, 62)) -> Material:
    """Running bond of 21.5 x 6.5 cm bricks with 1 cm joints, every brick its own."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        pitch_x, pitch_y, joint = 0.225, 0.075, 0.010
        y = (np.arange(shape[0], dtype=np.float32) + 0.5)[:, None] * texel
        x = (np.arange(shape[1], dtype=np.float32) + 0.5)[None, :] * texel
        wobble = 0.0015 * smooth_noise(shape, random, 0.03 / texel)
        row = np.floor(np.broadcast_to(y, shape) / pitch_y).astype(np.int64)
        shifted = x + wobble + 0.5 * pitch_x * (row % 2)
        column = np.floor(shifted / pitch_x).astype(np.int64)
        in_x = shifted - column * pitch_x
        in_y = y + wobble - row * pitch_y
        edge = np.minimum(np.minimum(in_x, pitch_x - in_x), np.minimum(in_y, pitch_y - in_y))
        inside = np.clip((edge - joint / 2) / 0.004 + 0.5, 0, 1)[..., None]
        count = (int(row.max()) + 2, int(column.max()) + 3)
        tint = random.normal(0, 4, (*count, 3))
        tone = random.normal(0, 13, (*count, 1)) * [1.0, 0.75, 0.65]
        dark = (random.random((*count, 1)) < 0.08) * -32.0
        bricks = np.array(base, np.float32) + (tint + tone + dark)[row, column + 1].astype(
            np.float32
        )
        bricks += 7 * natural_noise(shape, random, 0.06 / texel, 0.006 / texel, 0.8)[..., None]
        joints = flat(shape, mortar)
        joints += 6 * natural_noise(shape, random, 0.05 / texel, 0.006 / texel)[..., None]
        shade = np.clip(1 - (edge - joint / 2) / 0.010, 0, 1)[..., None]
        canvas = joints * (1 - inside) + (bricks - 10 * shade) * inside
        canvas += 6 * natural_noise(shape, random, 1.0 / texel, 0.2 / texel)[..., None]
        return to_image(canvas)

    return Material(paint, 0.003)


def wallpaper(ground: Colour = (196, 200, 180), figure: Colour = (160, 172, 148)) -> Material:
    """Stripes with a leaf motif, faded here and there, seams every 53 cm."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        canvas = flat(shape, ground)
        mask = np.zeros(shape, np.uint8)
        pitch = 0.265 / texel
        for column in range(int(shape[1] / pitch) + 2):
            for row in range(int(shape[0] / pitch) + 2):
                centre = ((column + 0.5 * (row % 2)) * pitch, (row + 0.5) * pitch * 0.87)
                _leaf_motif(mask, centre, 0.10 / texel)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32)[..., None] / 255
        wear = np.clip(0.8 + 0.25 * natural_noise(shape, random, 0.5 / texel, 0.05 / texel), 0, 1)
        canvas += soft * wear[..., None] * (np.array(figure, np.float32) - canvas)
        x = (np.arange(shape[1], dtype=np.float32) + 0.5) * texel
        stripe = 3.0 * np.sign(np.sin(2 * np.pi * x / 0.1325))
        seam = -9.0 * np.exp(-(((x + 0.2) % 0.53 - 0.265) ** 2) / (2 * 0.0012**2))
        canvas += (stripe + seam)[None, :, None]
        paper = 2.2 * smooth_noise(shape, random, (0.02 / texel, 0.006 / texel))
        canvas += (paper + 6 * natural_noise(shape, random, 1.0 / texel, 0.1 / texel))[..., None]
        _stains(canvas, random, texel, count=int(4 * width))
        return to_image(canvas)

    return Material(paint, 0.003)


def wood(base: Colour = (150, 106, 66), plank_m: float = 0.0, contrast: float = 1.0) -> Material:
    """Wood with the grain along u: knots, growth rings; planks of `plank_m` [m] if positive."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        along = height > width and plank_m == 0
        if along:
            shape = shape[::-1]
        canvas = _planks(shape, texel, base, plank_m, contrast, random)
        image = to_image(canvas)
        return np.ascontiguousarray(image.transpose(1, 0, 2)) if along else image

    return Material(paint, 0.0025 if plank_m == 0 else 0.003)


def rug() -> Material:
    """A woven rug: border, diamonds and a medallion, with the rows of the weave."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        canvas = np.zeros((*shape, 3), np.uint8)
        canvas[:] = (122, 40, 38)
        rows, columns = shape
        for inset, colour in (
            (0.03, (214, 190, 150)),
            (0.05, (40, 48, 84)),
            (0.17, (214, 190, 150)),
            (0.185, (134, 46, 40)),
        ):
            k = int(inset / texel)
            cv2.rectangle(canvas, (k, k), (columns - k, rows - k), colour, -1)
        palette = ((214, 190, 150), (190, 140, 70), (52, 66, 104), (84, 110, 86), (160, 70, 50))
        step = 0.11 / texel
        band = 0.11 / texel
        for i in range(int(columns / step) + 1):
            for y in (band, rows - band):
                _diamond(canvas, (i * step, y), step * 0.42, palette[random.integers(5)])
        for i in range(int(rows / step) + 1):
            for x in (band, columns - band):
                _diamond(canvas, (x, i * step), step * 0.42, palette[random.integers(5)])
        for left in np.arange(0.30 / texel, columns - 0.28 / texel, 0.2 / texel):
            for top in np.arange(0.30 / texel, rows - 0.28 / texel, 0.2 / texel):
                _diamond(canvas, (left, top), 0.075 / texel, palette[random.integers(5)])
                _diamond(canvas, (left, top), 0.035 / texel, palette[random.integers(5)])
        for radius, k in ((0.36, 2), (0.32, 0), (0.26, 4), (0.18, 1), (0.10, 2)):
            centre = (columns / 2, rows / 2)
            _diamond(canvas, centre, radius / texel, palette[k], 1.35)
        pile = cv2.GaussianBlur(canvas, (0, 0), 1.0).astype(np.float32)
        weave = smooth_noise(shape, random, (0.004 / texel, 0.018 / texel))
        wear = natural_noise(shape, random, 0.5 / texel, 0.05 / texel)
        return to_image(pile * (1 + 0.06 * weave + 0.07 * wear)[..., None] + 6)

    return Material(paint, 0.003)


def fabric(base: Colour = (86, 98, 112), check: float = 0.0) -> Material:
    """Upholstery: melange yarn, soft creases; a check of `check` [m] if positive."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        canvas = flat(shape, base)
        yarn = smooth_noise(shape, random, (0.005 / texel, 0.02 / texel))
        yarn += smooth_noise(shape, random, (0.02 / texel, 0.005 / texel))
        crease = natural_noise(shape, random, 0.3 / texel, 0.02 / texel, 0.75)
        canvas *= (1 + 0.07 * yarn + 0.085 * crease)[..., None]
        if check > 0:
            y = (np.arange(shape[0], dtype=np.float32) * texel)[:, None]
            x = (np.arange(shape[1], dtype=np.float32) * texel)[None, :]
            bands = ((x % check) < 0.35 * check).astype(np.float32) + (
                (y % check) < 0.35 * check
            ).astype(np.float32)
            lines = (np.abs((x % check) - 0.7 * check) < 0.004).astype(np.float32)
            lines = lines + (np.abs((y % check) - 0.7 * check) < 0.004).astype(np.float32)
            canvas += bands[..., None] * np.array([26, 10, -4], np.float32)
            canvas += lines[..., None] * np.array([55, 48, 30], np.float32)
        return to_image(np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.6), np.float32))

    return Material(paint, 0.003)


def metal(colour: Colour = (120, 122, 126)) -> Material:
    """Brushed and a little scratched."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        shape = shape_of(width, height, texel)
        canvas = flat(shape, colour)
        canvas += 5 * smooth_noise(shape, random, (0.004 / texel, 0.2 / texel))[..., None]
        canvas += 7 * natural_noise(shape, random, 0.2 / texel, 0.02 / texel)[..., None]
        return to_image(canvas)

    return Material(paint, 0.003)


def _planks(
    shape: tuple[int, int],
    texel: float,
    base: Colour,
    plank_m: float,
    contrast: float,
    random: Random,
) -> Float32:
    """Wood with the grain along the columns."""
    if plank_m <= 0:
        return _grain(shape, texel, base, contrast, random)
    canvas = np.zeros((*shape, 3), np.float32)
    rows = max(round(plank_m / texel), 4)
    for top in range(0, shape[0], rows):
        bottom = min(top + rows, shape[0])
        left = -int(random.uniform(0, 1.2) / texel)
        while left < shape[1]:
            length = int(random.uniform(0.9, 1.5) / texel)
            right = min(left + length, shape[1])
            begin = max(left, 0)
            if right > begin:
                tone = random.normal(0, 11) * np.array([1, 0.85, 0.7]) + random.normal(0, 3, 3)
                red, green, blue = (float(v) for v in np.array(base) + tone)
                colour = (red, green, blue)
                board = _grain((bottom - top, right - begin), texel, colour, contrast, random)
                board[:1] *= 0.62
                board[-1:] *= 0.78
                if right - begin > 2:
                    board[:, -1:] *= 0.6
                canvas[top:bottom, begin:right] = board
            left += length
    return canvas


def _grain(
    shape: tuple[int, int], texel: float, base: Colour, contrast: float, random: Random
) -> Float32:
    rows, columns = shape
    y = (np.arange(rows, dtype=np.float32) * texel)[:, None]
    warp = 0.016 * smooth_noise(shape, random, (0.08 / texel, 0.5 / texel))
    field = y + warp
    for _ in range(int(random.poisson(0.8 * rows * columns * texel * texel / 0.15))):
        cy, cx = random.uniform(0, rows * texel), random.uniform(0, columns * texel)
        x = (np.arange(columns, dtype=np.float32) * texel)[None, :]
        distance = np.hypot((x - cx) / 3.0, y - cy)
        field = field + 0.03 * np.exp(-distance / 0.018)
    rings = np.sin(2 * np.pi * field / 0.016 + 2 * smooth_noise(shape, random, 0.2 / texel))
    fibre = smooth_noise(shape, random, (0.003 / texel, 0.10 / texel))
    fine = smooth_noise(shape, random, (0.008 / texel, 0.25 / texel))
    tone = smooth_noise(shape, random, (0.10 / texel, 0.5 / texel))
    value = 0.055 * rings + 0.05 * fibre + 0.05 * fine + 0.05 * tone
    canvas = np.array(base, np.float32) * (1 + contrast * value)[..., None]
    return np.asarray(canvas, np.float32)


def _leaf_motif(mask: NDArray[np.uint8], centre: tuple[float, float], size: float) -> None:
    """A sprig: a stem with pairs of leaves and a flower, drawn with 1/16 texel precision."""
    cx, cy = centre

    def ellipse(x: float, y: float, a: float, b: float, angle: float) -> None:
        cv2.ellipse(
            mask,
            (int(16 * (cx + x * size)), int(16 * (cy + y * size))),
            (int(16 * a * size), int(16 * b * size)),
            angle, 0, 360, 255, -1, cv2.LINE_AA, 4,
        )  # fmt: skip

    ellipse(0, 0.15, 0.045, 0.75, 0)
    for k, y in enumerate((0.65, 0.3, -0.05)):
        scale = 1.0 - 0.18 * k
        ellipse(-0.33 * scale, y - 0.12, 0.34 * scale, 0.13 * scale, 35)
        ellipse(0.33 * scale, y - 0.12, 0.34 * scale, 0.13 * scale, -35)
    for angle in range(0, 360, 60):
        rad = np.deg2rad(angle)
        ellipse(0.17 * np.cos(rad), -0.62 + 0.17 * np.sin(rad), 0.16, 0.09, angle)


def _diamond(
    canvas: Image, centre: tuple[float, float], radius: float, colour: Colour, aspect: float = 1.0
) -> None:
    x, y = centre
    corners = np.array(
        [[x - radius * aspect, y], [x, y - radius], [x + radius * aspect, y], [x, y + radius]]
    )
    cv2.fillPoly(canvas, [np.rint(corners * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _cracks(canvas: Float32, random: Random, texel: float, count: int) -> None:
    rows, columns = canvas.shape[:2]
    layer = np.zeros((rows, columns), np.uint8)
    for _ in range(count):
        start = random.uniform((0, 0), (columns, rows))
        heading = random.uniform(0, 2 * np.pi)
        points = [start]
        for _ in range(int(random.integers(12, 40))):
            heading += random.normal(0, 0.35)
            points.append(
                points[-1] + 0.015 / texel * np.array([np.cos(heading), np.sin(heading)])
            )
        path = np.rint(np.array(points) * 16).astype(np.int32)
        cv2.polylines(layer, [path], False, int(random.integers(90, 220)), 1, cv2.LINE_AA, 4)
    canvas -= 0.16 * layer[..., None].astype(np.float32)


def _stains(canvas: Float32, random: Random, texel: float, count: int) -> None:
    """Scuffs, drips and marks of 1 to 10 cm."""
    rows, columns = canvas.shape[:2]
    layer = np.zeros((rows, columns), np.uint8)
    for _ in range(count):
        x, y = random.uniform((0, 0), (columns, rows))
        a, b = np.exp(random.uniform(np.log(0.006), np.log(0.05), 2)) / texel
        cv2.ellipse(
            layer, (int(16 * x), int(16 * y)), (int(16 * a), int(16 * b)),
            random.uniform(0, 180), 0, 360, int(random.integers(60, 200)), -1, cv2.LINE_AA, 4,
        )  # fmt: skip
    soft = cv2.GaussianBlur(layer, (0, 0), max(0.003 / texel, 0.6)).astype(np.float32)[..., None]
    canvas -= soft * np.array([0.09, 0.10, 0.12], np.float32)
