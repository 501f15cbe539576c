from .face_guidance import FaceGuide as FaceGuide
from .generator import Generator as Generator
from .guidance import Wish as Wish, raised as raised
from .opening import openness as openness
from .samples import Samples as Samples
