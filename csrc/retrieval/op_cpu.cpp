#include "common/checks.h"
