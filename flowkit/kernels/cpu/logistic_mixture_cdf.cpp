#include "exports.h"
#include "logistic_mixture_cdf.h"

EXPORT(logistic_mixture_cdf, with_logistic_mixture<T>(components, inverse, bound, use), int components, double bound)
