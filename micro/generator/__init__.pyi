from .face_guidance import FaceGuide as FaceGuide
from .generator import Generator as Generator
from .guidance import Wish as Wish, openness as openness, raised as raised
from .samples import Samples as Samples
