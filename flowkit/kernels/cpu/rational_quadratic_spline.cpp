#include "exports.h"
#include "rational_quadratic_spline.h"

EXPORT(rational_quadratic_spline, with_rational_quadratic<T>(bins, ends, inverse, low, high, unit, use), int bins, double low, double high, int ends,
       double unit)
