"""Numbers with their units, as the tables of commands show them."""

UNKNOWN = "?"
NONE = "-"
HOUR = 3600
MINUTE = 60
MIB = 2**20


def format_duration(seconds: float | None) -> str:
    """Return seconds in the unit that reads best."""
    if not seconds:
        return UNKNOWN if seconds is None else NONE
    for unit, size in (("h", HOUR), ("min", MINUTE)):
        # from two on: 90 min reads better than 1.5 h
        if seconds >= 2 * size:
            return f"{format_number(seconds / size)} {unit}"
    return "< 1 s" if seconds < 1 else f"{seconds:.0f} s"


def format_hours(seconds: float | None) -> str:
    if not seconds:
        return UNKNOWN if seconds is None else NONE
    hours = seconds / HOUR
    # as device-hours are charged: two decimals below one
    if hours < 0.01:
        return "< 0.01"
    return format_number(hours) if hours >= 1 else f"{hours:.2f}"


def format_number(value: float) -> str:
    """Return one decimal, or none from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def format_scaled(value: float, powers: tuple[tuple[float, str], ...]) -> str:
    """Return three digits and the word for the largest power below the value."""
    for power, word in powers:
        if value >= power:
            # .3g would write 1000 and more as 1e+03
            digits = ".3g" if value < 999.5 * power else ",.0f"
            return f"{value / power:{digits}} {word}"
    return f"{value:.0f}"


def format_flops(value: float) -> str:
    if not value:
        return NONE
    powers = (
        (1e18, "EFLOP"),
        (1e15, "PFLOP"),
        (1e12, "TFLOP"),
        (1e9, "GFLOP"),
        (1e6, "MFLOP"),
    )
    return format_scaled(value, powers)


def format_images(value: float) -> str:
    if value < 1e6:
        return f"{value:,.0f}"
    return format_scaled(value, ((1e9, "bn"), (1e6, "M")))


def format_disk(value: float) -> str:
    """Return bytes in powers of ten, as makers of disks count them."""
    if not value:
        return NONE
    powers = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return format_scaled(value, powers)


def format_memory(value: float, unit: int) -> str:
    """Return bytes in a unit, without its name."""
    if not value:
        return NONE
    if value >= 10 * unit:
        return f"{value / unit:,.1f}"
    return f"{value / unit:.2f}" if value >= 0.01 * unit else "< 0.01"


def format_small(value: float) -> str:
    """Return three digits, or all of a number from 1000 on."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else "< 0.01"


def count_noun(number: int, noun: str) -> str:
    """Return '1 step', '2 steps' and so on."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
