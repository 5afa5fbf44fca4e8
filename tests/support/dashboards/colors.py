"""Distance of two colours under colour vision deficiencies, and contrast of two colours."""

from __future__ import annotations

# Machado, Oliveira and Fernandes 2009, severity 1, in linear RGB.
VISION = {
    "trichromacy": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
Vector = tuple[float, float, float]


def measure_distance(one: str, other: str, vision: str) -> float:
    """Return the CIE76 distance of two colours (`#rrggbb`) under one of VISION; over 20 is clearly visible."""
    pairs = zip(_convert_to_lab(one, vision), _convert_to_lab(other, vision), strict=True)
    return float(sum((a - b) ** 2 for a, b in pairs) ** 0.5)


def measure_contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (`#rrggbb`) as WCAG 2 defines it, from 1 to 21."""
    rgb = (_convert_to_linear_rgb(color) for color in (one, other))
    dark, light = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in rgb)
    return (light + 0.05) / (dark + 0.05)


def _convert_to_linear_rgb(color: str) -> Vector:
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))

    def linearize(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)

    return linearize(red), linearize(green), linearize(blue)


def _multiply(matrix: tuple[Vector, Vector, Vector], vector: Vector) -> Vector:
    x, y, z = (sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z


def _convert_to_lab(color: str, vision: str) -> Vector:
    red, green, blue = (min(1.0, max(0.0, value)) for value in _multiply(VISION[vision], _convert_to_linear_rgb(color)))
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    scaled = (value / of for value, of in zip(_multiply(to_xyz, (red, green, blue)), white, strict=True))
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in scaled)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
