"""Maps between embedding spaces and calibration of scores, as functions of arrays."""
