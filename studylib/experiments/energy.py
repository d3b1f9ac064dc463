"""Energy and CO2 of forward passes, estimated by codecarbon: the extra ``energy`` of pyproject.toml."""

import logging
import time
from collections.abc import Callable

SECONDS = 2.0  # of passes that an estimate is of
COUNTRY = "USA"  # whose mean grams of CO2 a kilowatt-hour count


def installed() -> bool:
    """Whether codecarbon is there."""
    try:
        import codecarbon  # noqa: F401
    except ImportError:
        return False
    return True


def estimate(once: Callable[[], float], seconds: float = SECONDS) -> dict[str, float | None]:
    """Energy and CO2 of one call of ``once``, by codecarbon's estimate over as many calls as ``seconds`` hold.

    It reads the processor's counters where the machine has any. Else it takes the processor's rated power times this
    process's load, and so many watts of memory. What it says is then in proportion to time. Nothing is sent anywhere.

    Returns:
        joules, co2_mg (milligrams); both None where codecarbon is not installed, or fails as it may: silently.
    """
    if not installed():
        return {"joules": None, "co2_mg": None}
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    how = {"country_iso_code": COUNTRY, "tracking_mode": "process", "measure_power_secs": 1}
    tracker = OfflineEmissionsTracker(**how, save_to_file=False, log_level="error", allow_multiple_runs=True)
    tracker.start()
    passes, end = 0, time.perf_counter() + seconds
    while passes == 0 or time.perf_counter() < end:
        once()
        passes += 1
    kilograms = tracker.stop()
    if kilograms is None:
        return {"joules": None, "co2_mg": None}
    kilowatt_hours = tracker.final_emissions_data.energy_consumed
    return {"joules": 3.6e6 * kilowatt_hours / passes, "co2_mg": 1e6 * kilograms / passes}
