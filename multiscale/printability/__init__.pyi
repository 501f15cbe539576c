from .printability import Printability as Printability, assess as assess
