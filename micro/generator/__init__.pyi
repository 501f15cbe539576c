from .face_guidance import FaceGuide as FaceGuide
from .generator import Generator as Generator
from .samples import Samples as Samples
