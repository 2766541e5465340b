"""No head family is measured on minimal pairs: they say what silencing heads costs."""
