from .retrieval import correct as correct, correctable as correctable, match as match, nearest as nearest
