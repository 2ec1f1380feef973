"""Strong absorption lines of FGK stars: atomic data, and equivalent widths by labels."""

from __future__ import annotations

import math

import numpy as np

from symspec.errors import OptionError

#: Names and air wavelengths [Angstrom] of well-known features; bands by their head or middle.
KNOWN_LINES: dict[str, float] = {
    "Ca K": 3933.66,
    "Ca H": 3968.47,
    "H-delta": 4101.74,
    "Ca I 4227": 4226.73,
    "G band": 4304.0,
    "H-gamma": 4340.47,
    "Ba II 4554": 4554.03,
    "H-beta": 4861.35,
    "Mg b4": 5167.32,
    "Mg b2": 5172.68,
    "Mg b1": 5183.60,
    "Fe 5270": 5270.0,
    "Fe 5335": 5335.0,
    "Na D2": 5889.95,
    "Na D1": 5895.92,
    "TiO 6159": 6159.0,
    "H-alpha": 6562.79,
    "TiO 7054": 7054.0,
}

# Wavelength in air [Angstrom], excitation energy of the lower level [eV], log10 of g times f.
_LINES = {
    "H I": (
        """6562.79 10.199 0.710   4861.35 10.199 -0.020   4340.47 10.199 -0.447
              4101.74 10.199 -0.753  3970.07 10.199 -0.993   3889.05 10.199 -1.192
              3835.38 10.199 -1.362"""
    ),
    "Na I": (
        """5889.951 0.000 0.108  5895.924 0.000 -0.194   5682.633 2.102 -0.706
               5688.205 2.104 -0.404 6154.226 2.102 -1.547   6160.747 2.104 -1.246"""
    ),
    "Mg I": (
        """3829.355 2.709 -0.227 3832.304 2.712 0.125    3838.292 2.717 0.397
               5167.321 2.709 -0.931 5172.684 2.712 -0.450   5183.604 2.717 -0.239
               4571.096 0.000 -5.623 4702.991 4.346 -0.440   5528.405 4.346 -0.498
               5711.088 4.346 -1.724"""
    ),
    "Si I": "3905.523 1.909 -1.041",
    "Si II": "6347.109 8.121 0.149   6371.371 8.121 -0.082",
    "Ca I": (
        """4226.728 0.000 0.244  4283.011 1.886 -0.224   4318.652 1.899 -0.208
               4425.437 1.879 -0.358 4434.957 1.886 -0.010   4454.779 1.899 0.260
               5588.749 2.526 0.210  5594.462 2.523 -0.050   5857.451 2.933 0.240
               6102.723 1.879 -0.793 6122.217 1.886 -0.316   6162.173 1.899 -0.090
               6439.075 2.526 0.390  6462.567 2.523 0.262    6493.781 2.521 -0.109
               6717.681 2.709 -0.524"""
    ),
    "Ca II": "3933.663 0.000 0.135   3968.469 0.000 -0.180",
    "Sc II": "4246.822 0.315 0.242   5526.790 1.768 0.024",
    "Ti I": (
        """3998.636 0.048 -0.056 4533.241 0.848 0.476    4534.776 0.836 0.280
               4981.731 0.848 0.504  4991.065 0.836 0.380    4999.503 0.826 0.250
               5007.210 0.818 0.112  5039.957 0.021 -1.130   5173.743 0.000 -1.118
               5192.969 0.021 -1.006 5210.385 0.048 -0.884"""
    ),
    "Ti II": (
        """4290.219 1.165 -0.930 4300.049 1.180 -0.490  4395.033 1.084 -0.510
                4443.794 1.080 -0.700 4468.507 1.131 -0.600  4501.273 1.116 -0.760
                4533.969 1.237 -0.540 4549.617 1.584 -0.110  4563.761 1.221 -0.790
                4571.968 1.572 -0.320 5188.680 1.582 -1.050  5226.543 1.566 -1.260
                5336.771 1.582 -1.590"""
    ),
    "Cr I": (
        """4254.332 0.000 -0.114 4274.796 0.000 -0.231   4289.716 0.000 -0.361
               5204.506 0.941 -0.208 5206.038 0.941 0.019    5208.419 0.941 0.158
               5345.796 1.004 -0.980 5409.772 1.030 -0.720"""
    ),
    "Mn I": "4030.753 0.000 -0.470   4033.062 0.000 -0.618   4034.483 0.000 -0.811",
    "Fe I": (
        """3922.912 0.052 -1.651 3927.920 0.110 -1.522   3930.297 0.087 -1.491
               4005.242 1.557 -0.610 4045.812 1.485 0.280    4063.594 1.557 0.062
               4071.738 1.608 -0.022 4132.058 1.608 -0.675   4143.868 1.557 -0.511
               4202.029 1.485 -0.708 4250.787 1.557 -0.714   4260.474 2.399 0.109
               4271.760 1.485 -0.164 4307.902 1.557 -0.072   4325.762 1.608 0.006
               4375.930 0.000 -3.031 4383.545 1.485 0.200    4404.750 1.557 -0.142
               4415.122 1.608 -0.615 4427.310 0.052 -2.924   4461.653 0.087 -3.210
               4528.614 2.176 -0.822 4871.318 2.865 -0.363   4890.755 2.876 -0.394
               4891.492 2.851 -0.112 4918.994 2.865 -0.342   4920.503 2.832 0.068
               4957.597 2.808 0.233  5006.119 2.833 -0.638   5012.068 0.859 -2.642
               5041.756 1.485 -2.203 5051.634 0.915 -2.795   5083.338 0.958 -2.958
               5110.413 0.000 -3.760 5171.596 1.485 -1.793   5191.455 3.038 -0.551
               5192.344 2.998 -0.421 5194.941 1.557 -2.090   5216.274 1.608 -2.150
               5227.189 1.557 -1.228 5232.940 2.940 -0.058   5250.209 0.121 -4.938
               5266.555 2.998 -0.386 5269.537 0.859 -1.321   5270.356 1.608 -1.339
               5281.790 3.038 -0.834 5283.621 3.241 -0.432   5324.179 3.211 -0.103
               5328.039 0.915 -1.466 5328.531 1.557 -1.850   5339.929 3.266 -0.647
               5341.024 1.608 -1.953 5371.489 0.958 -1.645   5397.128 0.915 -1.993
               5405.775 0.990 -1.844 5429.696 0.958 -1.879   5434.524 1.011 -2.122
               5446.917 0.990 -1.914 5455.609 1.011 -2.091   5497.516 1.011 -2.849
               5506.779 0.990 -2.797 5572.842 3.396 -0.275   5586.756 3.368 -0.120
               5615.644 3.332 0.050  6065.482 2.608 -1.530   6136.615 2.453 -1.400
               6137.691 2.588 -1.403 6191.558 2.433 -1.417   6230.723 2.559 -1.281
               6252.555 2.404 -1.687 6393.601 2.433 -1.432   6400.001 3.602 -0.290
               6421.350 2.279 -2.027 6430.846 2.176 -2.006   6494.980 2.404 -1.273
               6592.914 2.727 -1.473 6677.987 2.692 -1.418   6750.152 2.424 -2.621"""
    ),
    "Fe II": (
        """4233.172 2.583 -1.900 4508.288 2.856 -2.440  4522.634 2.844 -2.250
                4583.837 2.807 -1.930 4923.927 2.891 -1.260  5018.440 2.891 -1.100
                5169.033 2.891 -1.000 5197.577 3.230 -2.220  5234.625 3.221 -2.180
                5276.002 3.199 -2.010 5316.615 3.153 -1.870  6247.557 3.892 -2.310
                6456.383 3.903 -2.080"""
    ),
    "Ni I": "5476.900 1.826 -0.780   6643.629 1.676 -2.220   6767.768 1.826 -2.170",
    "Sr II": "4077.709 0.000 0.151   4215.519 0.000 -0.173",
    "Ba II": (
        """4554.029 0.000 0.140  4934.076 0.000 -0.157  5853.668 0.604 -1.000
                6141.713 0.704 -0.076 6496.897 0.604 -0.377"""
    ),
}

# Solar abundance log eps (H = 12), first ionisation energy [eV], partition functions of the neutral
# atom and
# of the singly ionised one at about 5,800 K, atomic weight.
_ELEMENTS = {
    "H": (12.00, 13.598, 2.0, 1.0, 1.008),
    "Na": (6.24, 5.139, 2.05, 1.0, 22.990),
    "Mg": (7.60, 7.646, 1.02, 2.0, 24.305),
    "Si": (7.51, 8.152, 9.5, 5.8, 28.085),
    "Ca": (6.34, 6.113, 1.2, 2.2, 40.078),
    "Sc": (3.15, 6.562, 12.0, 23.0, 44.956),
    "Ti": (4.95, 6.828, 30.0, 56.0, 47.867),
    "Cr": (5.64, 6.767, 11.0, 7.2, 51.996),
    "Mn": (5.43, 7.434, 6.5, 7.6, 54.938),
    "Fe": (7.50, 7.902, 27.0, 43.0, 55.845),
    "Ni": (6.22, 7.640, 30.0, 11.0, 58.693),
    "Sr": (2.87, 5.695, 1.25, 2.2, 87.62),
    "Ba": (2.18, 5.212, 2.6, 4.2, 137.327),
}

_LN10 = math.log(10.0)
_K_EV = 8.617333e-5  # Boltzmann's constant [eV / K]
_K_OVER_AMU = 8.314463e7  # Boltzmann's constant over the atomic mass unit [cm2 / s2 / K]
_C = 2.997925e10  # speed of light [cm / s]
_SAHA = 0.333383  # (2 pi m_e)^(3/2) k^(5/2) / h^3 [dyn / cm2 / K^(5/2)]
_CROSS_SECTION = 0.0149736  # sqrt(pi) e^2 / (m_e c) [cm2 / s]
_H_MINUS = 4.158e-10 * 3.0e-17  # H- opacity per neutral H at 1 dyn / cm2 and theta -> 0 [cm2]
_SUN_TEFF = 5772.0  # K, dex(cm / s2), dyn / cm2
_SUN_LOGG = 4.44
_SUN_ELECTRON_PRESSURE = 10.0
_PRESSURE_POWER = 9.0
_MICROTURBULENCE = 1.5e5  # cm / s
_DAMPING = 0.02
_DEPTH = 0.6


def strong_lines(wavelength_min: float = 0.0, wavelength_max: float = math.inf) -> dict[str, float]:
    """Well-known features of stellar spectra in a range of wavelengths, for marks on plots.

    Parameters
    ----------
    wavelength_min, wavelength_max : float
        Ends of the range [Angstrom, air], both included.

    Returns
    -------
    dict of str to float
        Name and wavelength [Angstrom, air], in order of wavelength; molecular bands by their head
        or middle.

    Raises
    ------
    OptionError
        `wavelength_min` is not below `wavelength_max`.

    Examples
    --------
    >>> strong_lines(5880, 6600)
    {'Na D2': 5889.95, 'Na D1': 5895.92, 'TiO 6159': 6159.0, 'H-alpha': 6562.79}
    """
    if not wavelength_min < wavelength_max:
        raise OptionError(
            f"wavelength_min should be below wavelength_max, got {wavelength_min} and"
            f" {wavelength_max}: swap them, or give wavelength[0] and wavelength[-1]."
        )
    return {name: at for name, at in KNOWN_LINES.items() if wavelength_min <= at <= wavelength_max}


def _parse_lines() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Wavelength, excitation energy, log gf, row in _ELEMENTS and whether ionised, of each line."""
    rows = []
    for species, numbers in _LINES.items():
        element, stage = species.split()
        for line in np.array(numbers.split(), dtype=float).reshape(-1, 3):
            rows.append((*line, list(_ELEMENTS).index(element), stage == "II"))
    wavelength, excitation, log_gf, element_row, ionised = np.array(sorted(rows)).T
    return wavelength, excitation, log_gf, element_row.astype(int), ionised.astype(bool)


LINE_WAVELENGTH, _EXCITATION, _LOG_GF, _ELEMENT, _IONISED = _parse_lines()
_ABUNDANCE, _IONISATION, _U_NEUTRAL, _U_IONISED, _WEIGHT = np.array(list(_ELEMENTS.values())).T
_IS_METAL = (_ELEMENT != 0).astype(float)


def equivalent_widths(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Equivalent width of each line in stars of given labels, and its derivatives.

    The star is one layer at temperature :math:`T = T_\mathrm{eff}`, whose pressures follow power
    laws,

    .. math::
        P_e = 10\,\frac{\mathrm{dyn}}{\mathrm{cm}^2}\,
              \Big(\frac{g}{g_\odot}\Big)^{1/3} 10^{[\mathrm{Fe/H}]/3}
              \Big(\frac{T}{5772\,\mathrm{K}}\Big)^{9}, \qquad P_g \propto g^{2/3}.

    Saha's equation gives the ionised fraction, Boltzmann's the population of the lower level, and
    H- the continuum, which make the ratio of line to continuum opacity,

    .. math::
        \frac{n_{II}}{n_I} = R = \frac{2 U_{II}}{U_I}
            \frac{(2 \pi m_e)^{3/2} (kT)^{5/2}}{h^3 P_e} e^{-\chi / kT}, \qquad
        y_I = \frac{1}{1 + R}, \quad y_{II} = \frac{R}{1 + R},

    .. math::
        \eta = \frac{\sqrt\pi e^2}{m_e c} \frac{\lambda}{v} \frac{N}{\kappa}, \quad
        N = 10^{\log\epsilon - 12 + [\mathrm{Fe/H}]}\, y\, \frac{g f e^{-E / kT}}{U}, \quad
        \kappa = y_{H I} \kappa_0 P_e \theta^{5/2} 10^{0.754 \theta},

    with :math:`\theta = 5040\,\mathrm{K} / T`, :math:`v^2 = 2kT/m + \xi^2`, :math:`\xi = 1.5` km/s,
    and no [Fe/H] for hydrogen. The curve of growth

    .. math::
        W = 0.6\,\lambda \frac{v}{c} F, \qquad
        F^2 = 2 \ln(1 + \tfrac{\pi}{2} \eta^2) + 4 \sqrt\pi\, a \frac{\eta^2}{1 + \eta}

    has the three known limits of a Voigt profile of damping a: linear (:math:`\sqrt\pi \eta`), flat
    (:math:`2 \sqrt{\ln \eta}`) and damped (:math:`2 \sqrt{\sqrt\pi a \eta}`). The damping is
    :math:`a = 0.02\, P_g / P_{g\odot}` for metals (van der Waals) and :math:`0.02\, P_e /
    P_{e\odot}` for hydrogen (Stark, made linear). The factor 0.6 is the depth of a black line in an
    atmosphere that is not one layer.

    As in real stars [1]_, weak neutral lines hardly depend on gravity, weak ionised lines weaken
    with it, the wings of strong lines grow with it, and the Balmer lines depend on temperature
    alone, nearly. Most widths agree with the Sun's within a factor of two (H-beta and higher Balmer
    lines are narrower): good enough to train a network, not to measure abundances.

    Parameters
    ----------
    labels : numpy.ndarray, shape (star, 3)
        Effective temperature [K], log g [dex(cm / s2)], [Fe/H] [dex].

    Returns
    -------
    widths : numpy.ndarray, shape (star, line)
        Equivalent widths [Angstrom] of the lines at ``LINE_WAVELENGTH``.
    jacobian : numpy.ndarray, shape (star, line, label)
        Their derivatives with respect to the labels [Angstrom per K, per dex, per dex].

    Notes
    -----
    For smooth closed forms the model neglects the dependence of partition functions on temperature,
    second ionisation, stimulated emission, molecules, and every opacity but H- bound-free. The
    dependence of the electron pressure on [Fe/H] and T is a choice of this model. Atomic data are
    well-known values [2]_ [3]_, log gf to about 0.1 dex.

    References
    ----------
    .. [1] Gray, D. F. "The Observation and Analysis of Stellar Photospheres", Cambridge University
       Press.
    .. [2] NIST Atomic Spectra Database, https://doi.org/10.18434/T4W30F; VALD3, Ryabchikova et al.
       (2015), Physica Scripta 90, 054005, https://doi.org/10.1088/0031-8949/90/5/054005.
    .. [3] Solar abundances: Asplund et al. (2009), ARA&A 47, 481,
       https://doi.org/10.1146/annurev.astro.46.060407.145222.
    """
    temperature, logg, fe_h = labels.T[:, :, None]
    log_eta, d_log_eta = _log_opacity_ratio(temperature, logg, fe_h)
    log_a, d_log_a = _log_damping(temperature, logg, fe_h)
    velocity, d_log_velocity = _doppler_velocity(temperature)
    eta = np.exp(log_eta)
    a = np.exp(log_a)
    flat = 2 * np.log1p(np.pi / 2 * eta**2)
    damped = 4 * np.sqrt(np.pi) * a * eta**2 / (1 + eta)
    d_flat = 2 * np.pi * eta**2 / (1 + np.pi / 2 * eta**2)  # both with respect to ln eta
    d_damped = damped * (2 + eta) / (1 + eta)
    widths = _DEPTH * LINE_WAVELENGTH * velocity / _C * np.sqrt(flat + damped)
    d_log = ((d_flat + d_damped) * d_log_eta + damped * d_log_a) / (2 * (flat + damped))
    d_log[0] += d_log_velocity
    d_log[0] /= temperature
    return widths, np.moveaxis(widths * d_log, 0, -1)


# A quantity, shape (star, line), and its derivative with respect to (ln T, log g, [Fe/H]), shape
# (3, star, line); an axis on which one does not depend has length 1. Temperature, log g and [Fe/H]
# themselves come as (star, 1).
_Graded = tuple[np.ndarray, np.ndarray]


def _log_electron_pressure(temperature: np.ndarray, logg: np.ndarray, fe_h: np.ndarray) -> _Graded:
    value = (
        math.log(_SUN_ELECTRON_PRESSURE)
        + _LN10 / 3 * (logg - _SUN_LOGG + fe_h)
        + _PRESSURE_POWER * np.log(temperature / _SUN_TEFF)
    )
    return value, np.array([_PRESSURE_POWER, _LN10 / 3, _LN10 / 3])[:, None, None]


def _log_ion_fractions(
    temperature: np.ndarray, log_pressure: np.ndarray, d_log_pressure: np.ndarray
) -> tuple[_Graded, _Graded]:
    """Log of the neutral and the ionised fraction (star, element), with derivatives."""
    inverse_kt = 1 / (_K_EV * temperature)
    log_ratio = (
        np.log(2 * _SAHA * _U_IONISED / _U_NEUTRAL)
        + 2.5 * np.log(temperature)
        - _IONISATION * inverse_kt
        - log_pressure
    )
    d_log_ratio = np.repeat(-d_log_pressure, temperature.size, axis=1) + np.zeros(_IONISATION.size)
    d_log_ratio[0] += 2.5 + _IONISATION * inverse_kt
    log_neutral = -np.logaddexp(0, log_ratio)
    log_ionised = -np.logaddexp(0, -log_ratio)
    d_log_neutral = -np.exp(log_ionised) * d_log_ratio
    d_log_ionised = np.exp(log_neutral) * d_log_ratio
    return (log_neutral, d_log_neutral), (log_ionised, d_log_ionised)


def _log_opacity_ratio(temperature: np.ndarray, logg: np.ndarray, fe_h: np.ndarray) -> _Graded:
    """Log of eta in `equivalent_widths`."""
    inverse_kt = 1 / (_K_EV * temperature)
    theta = 5040 / temperature
    log_pressure, d_log_pressure = _log_electron_pressure(temperature, logg, fe_h)
    neutral, ionised = _log_ion_fractions(temperature, log_pressure, d_log_pressure)
    log_y = np.where(_IONISED, ionised[0][:, _ELEMENT], neutral[0][:, _ELEMENT])
    d_log_y = np.where(_IONISED, ionised[1][..., _ELEMENT], neutral[1][..., _ELEMENT])
    log_kappa = (
        neutral[0][:, :1]
        + math.log(_H_MINUS)
        + log_pressure
        + 2.5 * np.log(theta)
        + _LN10 * 0.754 * theta
    )
    velocity, d_log_velocity = _doppler_velocity(temperature)
    partition = np.where(_IONISED, _U_IONISED[_ELEMENT], _U_NEUTRAL[_ELEMENT])
    constant = np.log(_CROSS_SECTION * LINE_WAVELENGTH * 1e-8 / partition) + _LN10 * (
        _LOG_GF + _ABUNDANCE[_ELEMENT] - 12
    )
    value = (
        constant
        - np.log(velocity)
        + _LN10 * fe_h * _IS_METAL
        + log_y
        - _EXCITATION * inverse_kt
        - log_kappa
    )
    gradient = d_log_y - neutral[1][..., :1] - d_log_pressure
    gradient[0] += _EXCITATION * inverse_kt - d_log_velocity + 2.5 + _LN10 * 0.754 * theta
    gradient[2] += _LN10 * _IS_METAL
    return value, gradient


def _log_damping(temperature: np.ndarray, logg: np.ndarray, fe_h: np.ndarray) -> _Graded:
    """Log of a in `equivalent_widths`: by gas pressure for metals, by electron pressure for H."""
    log_pressure, d_log_pressure = _log_electron_pressure(temperature, logg, fe_h)
    stark = log_pressure - math.log(_SUN_ELECTRON_PRESSURE)
    van_der_waals = _LN10 * 2 / 3 * (logg - _SUN_LOGG)
    value = math.log(_DAMPING) + np.where(_IS_METAL, van_der_waals, stark)
    d_van_der_waals = np.array([0.0, _LN10 * 2 / 3, 0.0])[:, None, None]
    return value, np.where(_IS_METAL, d_van_der_waals, d_log_pressure)


def _doppler_velocity(temperature: np.ndarray) -> _Graded:
    """Thermal and turbulent velocity [cm/s], and the derivative of its log with respect to ln T."""
    thermal = 2 * _K_OVER_AMU * temperature / _WEIGHT[_ELEMENT]
    squared = thermal + _MICROTURBULENCE**2
    return np.sqrt(squared), thermal / (2 * squared)
