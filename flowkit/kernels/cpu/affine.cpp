#include "exports.h"
#include "affine.h"

// the last argument is not used: a map without constants
EXPORT(affine, with_affine<T>(inverse, use), int)
