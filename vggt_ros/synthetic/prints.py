"""Textures with content: pictures, posters, books, boxes with print, doors and windows."""

from __future__ import annotations

import cv2
import numpy as np

from vggt_ros.synthetic.primitives import Material
from vggt_ros.synthetic.textures import (
    Colour,
    Random,
    _planks,
    flat,
    natural_noise,
    shape_of,
    smooth_noise,
    to_image,
)
from vggt_ros.types import Float32, Image

_WORDS = (
    "MAP", "ROBOT", "FRAGILE", "DEPTH", "TOOLS", "CABLES", "OPTICS", "LENSES", "PARTS", "No 27",
    "HANDLE WITH CARE", "THIS SIDE UP", "25 kg", "ATLAS", "GEOMETRY", "SURVEY", "HARBOUR", "1887",
)  # fmt: skip


def text(
    canvas: Image, word: str, left: float, bottom: float, height: float, colour: Colour
) -> None:
    """Write a word whose capitals are `height` texels high; (left, bottom) of the base line."""
    scale = height / 21.0  # capitals of the Hershey simplex font are 21 texels at scale 1
    cv2.putText(
        canvas, word, (int(left), int(bottom)), cv2.FONT_HERSHEY_SIMPLEX, scale, colour,
        max(round(height / 7), 1), cv2.LINE_AA,
    )  # fmt: skip


def painting(seed: int = 0, frame: Colour = (70, 48, 30)) -> Material:
    """A landscape in oils in a frame of 4 cm."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        random = np.random.default_rng(seed)
        rows, columns = shape = shape_of(width, height, texel)
        y = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
        sky = random.uniform((90, 130, 170), (190, 190, 225))
        glow = random.uniform((220, 190, 130), (250, 225, 190))
        canvas = np.broadcast_to(sky * (1 - y) + glow * y, (rows, columns, 3)).astype(np.float32)
        canvas = canvas + 16 * natural_noise(shape, random, rows / 3, 0.01 / texel)[..., None]
        horizon = random.uniform(0.35, 0.5)
        for k in range(5):
            level = horizon + 0.12 * k
            line = natural_noise((1, columns), random, columns / (2 + k), 0.02 / texel, 0.6)[0]
            edge = (level + 0.06 * line)[None, :]
            inside = np.clip((y[..., 0] - edge) * rows / 2, 0, 1)[..., None]
            low = np.array((40, 60, 40)) + random.uniform(-22, 26, 3)
            hill = low + (1 - k / 5) * np.array((50, 62, 80)) * random.uniform(0.4, 1.1)
            strokes = 15 * smooth_noise(shape, random, (0.012 / texel, 0.035 / texel))
            strokes += 11 * natural_noise(shape, random, 0.1 / texel, 0.006 / texel)
            canvas = (
                canvas * (1 - inside) + (hill.astype(np.float32) + strokes[..., None]) * inside
            )
        image = to_image(canvas)
        for _ in range(int(random.integers(5, 12))):
            x, foot = random.uniform((0.05, horizon + 0.15), (0.95, 0.95))
            size = rows * random.uniform(0.03, 0.09)
            dark = [int(v) for v in random.integers((18, 30, 14), (60, 90, 50))]
            for _ in range(14):
                dx, dy = random.normal(0, 0.5, 2) * size
                centre = (int(x * columns + dx), int(foot * rows - size * 1.4 + dy))
                shade = [min(255, int(v * random.uniform(0.7, 1.5))) for v in dark]
                cv2.circle(image, centre, max(int(size * 0.4), 1), shade, -1, cv2.LINE_AA)
        house = random.uniform((0.2, horizon + 0.1), (0.8, 0.8)) * (columns, rows)
        _house(image, house, rows * random.uniform(0.06, 0.12), random)
        return _framed(image, texel, 0.04, frame, random)

    return Material(paint, 0.0015)


def poster(seed: int = 0) -> Material:
    """A printed sheet: title, blocks of colour, shapes and lines of small print."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        random = np.random.default_rng([seed, 7])
        rows, columns = shape_of(width, height, texel)
        red, green, blue = (float(v) for v in random.integers(180, 245, 3))
        image = to_image(flat((rows, columns), (red, green, blue)))
        for _ in range(9):
            colour = [int(v) for v in random.integers(20, 235, 3)]
            x, y = random.uniform((0.05, 0.2), (0.8, 0.7)) * (columns, rows)
            w, h = random.uniform(0.08, 0.35, 2) * (columns, rows)
            if random.random() < 0.5:
                cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
            else:
                centre = (int(x + w / 2), int(y + h / 2))
                cv2.ellipse(image, centre, (int(w / 2), int(h / 2)), 0, 0, 360, colour, -1, 16)
        ink = (28, 26, 36)
        word = _WORDS[int(random.integers(len(_WORDS)))]
        text(image, word, 0.07 * columns, 0.14 * rows, 0.07 * rows, ink)
        y = 0.78 * rows
        while y < 0.95 * rows:
            _small_print(image, 0.07 * columns, y, 0.86 * columns, 0.012 * rows, ink, random)
            y += 0.03 * rows
        noise = natural_noise((rows, columns), random, 0.2 / texel, 0.01 / texel)
        return to_image(image.astype(np.float32) + 4 * noise[..., None])

    return Material(paint, 0.0015)


def books(seed: int = 0) -> Material:
    """Spines side by side: colours, bands, titles along the spine."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        random = np.random.default_rng([seed, 11])
        rows, columns = shape_of(width, height, texel)
        image = np.full((rows, columns, 3), 16, np.uint8)
        x = 0
        while x < columns - 2:
            thick = int(random.uniform(0.018, 0.05) / texel)
            right = min(x + thick, columns)
            colour = _book_colour(random)
            top = 0
            image[top:, x:right] = colour
            red, green, blue = (int(v) for v in np.clip(np.array(colour) * 0.6 + 95, 0, 255))
            band = (red, green, blue)
            for level in random.uniform(0.06, 0.94, int(random.integers(1, 4))):
                y = int(top + level * (rows - top))
                image[y : y + max(int(0.006 / texel), 1), x:right] = band
            length = int((rows - top) * random.uniform(0.4, 0.65))
            capital = max(min(0.55 * (right - x), 0.02 / texel), 3)
            if right - x > 5 and length > 20:
                strip = image[top + 4 : top + 4 + length, x:right].transpose(1, 0, 2)[::-1].copy()
                word = _WORDS[int(random.integers(len(_WORDS)))]
                text(strip, word, 4, 0.5 * (right - x) + capital / 2, capital, band)
                image[top + 4 : top + 4 + length, x:right] = strip[::-1].transpose(1, 0, 2)
            image[top:, x : x + 1] = (np.array(colour) * 0.4).astype(np.uint8)
            if right - x > 4:
                image[top:, right - 2 : right] = (np.array(colour) * 0.7).astype(np.uint8)
            x = right
        noise = natural_noise((rows, columns), random, 0.08 / texel, 0.004 / texel, 0.8)
        return to_image(image.astype(np.float32) * (1 + 0.07 * noise[..., None]) + 3)

    return Material(paint, 0.0015)


def cardboard(label: bool = True, base: Colour = (176, 134, 88)) -> Material:
    """Corrugated board with tape, a printed label, arrows and scuffs."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        rows, columns = shape = shape_of(width, height, texel)
        canvas = flat(shape, base)
        x = np.arange(columns, dtype=np.float32) * texel
        canvas += 2.0 * np.sin(2 * np.pi * x / 0.008)[None, :, None]
        canvas += 9 * natural_noise(shape, random, 0.15 / texel, 0.006 / texel, 0.75)[..., None]
        image = to_image(canvas)
        tape = int(0.025 / texel)
        middle = rows // 2 if rows < columns else columns // 2
        lane = (
            image[middle - tape : middle + tape]
            if rows < columns
            else (image[:, middle - tape : middle + tape])
        )
        lane[:] = (lane * np.array([0.86, 0.8, 0.68]) + 16).astype(np.uint8)
        if label:
            ink = (52, 38, 30)
            for k in range(2):
                word = _WORDS[int(random.integers(len(_WORDS)))]
                capital = min(0.16 * rows, 0.8 * columns / max(len(word), 3))
                left = random.uniform(0.05, 0.15) * columns
                text(image, word, left, (0.28 + 0.62 * k) * rows, capital, ink)
            w, h = 0.38 * columns, 0.24 * rows
            left, top = int(0.55 * columns), int(0.48 * rows)
            cv2.rectangle(image, (left, top), (int(left + w), int(top + h)), (232, 230, 222), -1)
            _barcode(image, left + 0.06 * w, top + 0.5 * h, 0.5 * w, 0.4 * h, random)
            for k in range(4):
                _small_print(
                    image, left + 0.06 * w, top + (0.12 + 0.1 * k) * h, 0.85 * w, 0.045 * h, ink,
                    random,
                )  # fmt: skip
            for k in range(2):
                _arrow(image, (0.12 + 0.12 * k) * columns, 0.62 * rows, 0.16 * rows, ink)
        scuff = natural_noise(shape, random, 0.1 / texel, 0.01 / texel)
        return to_image(image.astype(np.float32) + 9 * np.clip(scuff - 1.2, 0, 2)[..., None])

    return Material(paint, 0.002)


def door(base: Colour = (150, 116, 80)) -> Material:
    """A panelled wooden door with a handle and a plate."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        rows, columns = shape = shape_of(width, height, texel)
        canvas = _planks(shape[::-1], texel, base, 0.0, 1.0, random).transpose(1, 0, 2).copy()
        for top, bottom in ((0.06, 0.46), (0.54, 0.94)):
            for left, right in ((0.12, 0.46), (0.54, 0.88)):
                box = (int(top * rows), int(bottom * rows), int(left * columns),
                       int(right * columns))  # fmt: skip
                _bevel(canvas, box, max(int(0.02 / texel), 1))
        image = to_image(canvas)
        x, y = int(0.93 * columns), int(0.53 * rows)
        cv2.rectangle(
            image, (x - int(0.02 / texel), y - int(0.08 / texel)),
            (x + int(0.02 / texel), y + int(0.08 / texel)), (186, 176, 140), -1,
        )  # fmt: skip
        cv2.circle(image, (x, y), int(0.016 / texel), (90, 84, 66), -1, cv2.LINE_AA)
        return image

    return Material(paint, 0.003)


def cabinet_front(base: Colour = (128, 92, 62), columns_of_doors: int = 2) -> Material:
    """Doors side by side with knobs."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        rows, columns = shape = shape_of(width, height, texel)
        canvas = np.zeros((*shape, 3), np.float32)
        each = columns // columns_of_doors
        for k in range(columns_of_doors):
            left, right = k * each, columns if k == columns_of_doors - 1 else (k + 1) * each
            leaf = _planks((right - left, rows), texel, base, 0.0, 1.25, random)
            canvas[:, left:right] = leaf.transpose(1, 0, 2)
            edge = max(int(0.06 / texel), 2)
            _bevel(canvas, (edge, rows - edge, left + edge, right - edge), int(0.015 / texel) + 1)
            canvas[:, right - 1 : right] *= 0.4
            canvas[:, left : left + 1] *= 0.5
        image = to_image(canvas)
        for k in range(columns_of_doors):
            x = int((k + (0.88 if k % 2 == 0 else 0.12)) * each)
            cv2.circle(image, (x, rows // 2), int(0.018 / texel), (206, 188, 120), -1, 16)
            cv2.circle(image, (x, rows // 2), int(0.018 / texel), (70, 54, 34), 1, 16)
        return image

    return Material(paint, 0.0025)


def window() -> Material:
    """A view of houses and trees under clouds, with mullions."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        rows, columns = shape = shape_of(width, height, texel)
        y = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
        canvas = (1 - y) * np.array([150, 190, 235], np.float32) + y * np.array(
            [226, 232, 238], np.float32
        )
        canvas = np.broadcast_to(canvas, (*shape, 3)).copy()
        clouds = np.clip(natural_noise(shape, random, 0.5 / texel, 0.02 / texel, 0.6), 0, 1.5)
        canvas += (clouds * 26)[..., None]
        image = to_image(canvas)
        x = 0
        while x < columns:
            wide, tall = int(random.uniform(0.12, 0.3) / texel), random.uniform(0.3, 0.62) * rows
            wall = [int(v) for v in random.integers((130, 105, 90), (215, 195, 180))]
            top = int(rows - tall)
            cv2.rectangle(image, (x, top), (x + wide, rows), wall, -1)
            roof = np.array([[x - 4, top], [x + wide + 4, top], [x + wide // 2, top - wide // 3]])
            cv2.fillPoly(image, [roof.astype(np.int32)], (120, 62, 48), cv2.LINE_AA)
            pane = max(int(0.022 / texel), 2)
            for row in range(top + 2 * pane, rows - pane, 3 * pane):
                for column in range(x + pane, x + wide - 2 * pane, 3 * pane):
                    tone = int(random.integers(40, 110))
                    end = (column + pane, row + int(1.4 * pane))
                    cv2.rectangle(image, (column, row), end, (tone, tone + 8, tone + 20), -1)
            x += wide + int(random.uniform(0, 0.05) / texel)
        bar = max(int(0.03 / texel), 2)
        frame = (216, 212, 202)
        for left in (0, columns // 2 - bar // 2, columns - bar):
            image[:, left : left + bar] = frame
            image[:, left : left + 1] = (120, 116, 108)
        for top in (0, int(0.62 * rows), rows - bar):
            image[top : top + bar] = frame
            image[top : top + 1] = (120, 116, 108)
        return image

    return Material(paint, 0.002)


def curtain(base: Colour = (168, 92, 70)) -> Material:
    """Hanging folds with a woven pattern of dots and lines."""

    def paint(width: float, height: float, texel: float, random: Random) -> Image:
        rows, columns = shape = shape_of(width, height, texel)
        x = np.arange(columns, dtype=np.float32)[None, :] * texel
        sway = 0.012 * smooth_noise(shape, random, (0.6 / texel, 0.12 / texel))
        phase = 2 * np.pi * (x + sway) / 0.085
        canvas = flat(shape, base)
        y = np.arange(rows, dtype=np.float32)[:, None] * texel
        band = (np.abs((y % 0.34) - 0.17) < 0.035).astype(np.float32)
        canvas += band[..., None] * np.array([38, 44, 26], np.float32)
        dots = ((x * 1.0 + sway) % 0.06 - 0.03) ** 2 + ((y % 0.11) - 0.055) ** 2 < 0.011**2
        canvas += dots[..., None] * np.array([52, 58, 40], np.float32)
        fold = 0.16 * np.sin(phase) + 0.05 * np.sin(2.3 * phase + 1)
        cloth = 0.04 * natural_noise(shape, random, 0.1 / texel, 0.006 / texel, 0.8)
        return to_image(canvas * (0.95 + fold + cloth)[..., None])

    return Material(paint, 0.003)


def _framed(image: Image, texel: float, border: float, colour: Colour, random: Random) -> Image:
    rows, columns = image.shape[:2]
    k = int(min(border / texel, rows / 4, columns / 4))
    canvas = flat((rows, columns), colour)
    canvas += 8 * smooth_noise((rows, columns), random, (0.004 / texel, 0.05 / texel))[..., None]
    mat = int(k * 1.35)
    canvas[k : rows - k, k : columns - k] = (222, 216, 200)
    canvas[mat : rows - mat, mat : columns - mat] = image[mat : rows - mat, mat : columns - mat]
    canvas[: k // 3] *= 1.3
    canvas[-(k // 3) - 1 :] *= 0.6
    return to_image(canvas)


def _house(image: Image, foot: np.ndarray, size: float, random: Random) -> None:
    x, y = (int(v) for v in foot)
    s = int(size)
    wall = [int(v) for v in random.integers((190, 175, 150), (245, 232, 215))]
    cv2.rectangle(image, (x - s, y - s), (x + s, y), wall, -1)
    roof = np.array([[x - s - 3, y - s], [x + s + 3, y - s], [x, y - int(1.9 * s)]], np.int32)
    cv2.fillPoly(
        image, [roof], [int(v) for v in random.integers((120, 40, 30), (180, 80, 60))], 16
    )
    for dx in (-0.6, 0.2):
        left, top, side = int(x + dx * s), int(y - 0.75 * s), int(0.35 * s)
        cv2.rectangle(image, (left, top), (left + side, top + side), (50, 52, 66), -1)


def _small_print(
    image: Image, left: float, y: float, length: float, height: float, ink: Colour, random: Random
) -> None:
    x = left
    end = left + length * random.uniform(0.7, 1.0)
    h = max(height, 1.0)
    while x < end:
        word = h * random.uniform(1.2, 5)
        cv2.rectangle(image, (int(x), int(y)), (int(min(x + word, end)), int(y + h)), ink, -1)
        x += word + 0.8 * h


def _barcode(
    image: Image, left: float, top: float, width: float, height: float, random: Random
) -> None:
    x = left
    while x < left + width:
        bar = max(width * random.uniform(0.008, 0.03), 1.0)
        cv2.rectangle(image, (int(x), int(top)), (int(x + bar) - 1, int(top + height)), (20,) * 3,
                      -1)  # fmt: skip
        x += bar + max(width * random.uniform(0.01, 0.03), 1.0)


def _arrow(image: Image, x: float, bottom: float, size: float, ink: Colour) -> None:
    shape = np.array([[-0.12, 0], [0.12, 0], [0.12, -0.55], [0.32, -0.55], [0, -1], [-0.32, -0.55],
                      [-0.12, -0.55]])  # fmt: skip
    points = np.rint((shape * size + [x, bottom]) * 16).astype(np.int32)
    cv2.fillPoly(image, [points], ink, cv2.LINE_AA, 4)


def _bevel(canvas: Float32, box: tuple[int, int, int, int], width: int) -> None:
    """Darken the upper and left edge of a sunk panel and lighten the others."""
    top, bottom, left, right = box
    canvas[top : top + width, left:right] *= 0.7
    canvas[bottom - width : bottom, left:right] *= 1.2
    canvas[top:bottom, left : left + width] *= 0.78
    canvas[top:bottom, right - width : right] *= 1.14


def _book_colour(random: Random) -> Colour:
    palette = ((122, 34, 34), (30, 54, 92), (38, 84, 58), (196, 170, 116), (72, 50, 38),
               (210, 204, 190), (168, 96, 34), (88, 88, 96), (60, 36, 72), (178, 60, 46),
               (34, 34, 38), (112, 132, 150))  # fmt: skip
    base = np.array(palette[int(random.integers(len(palette)))]) + random.normal(0, 10, 3)
    r, g, b = (float(np.clip(v, 8, 235)) for v in base)
    return r, g, b
