"""Recipes: data that say where base, delta and LoRAs come from and what comes out.

A recipe is one TOML file, in ``assets/recipes/`` or in the data directory's ``recipes`` folder; it needs no code
(docs/recipes.md). ``recipe`` is the value, ``fields`` and ``reading`` the files, ``custom`` and ``pasted`` what people
type, ``choosing`` how one is found. Knows nothing about machines.
"""

from backend.recipes.choosing import find_recipe as find_recipe
from backend.recipes.choosing import search_recipes as search_recipes
from backend.recipes.custom import custom_recipe as custom_recipe
from backend.recipes.custom import typed_lora as typed_lora
from backend.recipes.pasted import understood as understood
from backend.recipes.reading import Collection as Collection
from backend.recipes.reading import collect_recipes as collect_recipes
from backend.recipes.reading import read_recipe as read_recipe
from backend.recipes.reading import read_recipes as read_recipes
from backend.recipes.recipe import ADAPTER as ADAPTER
from backend.recipes.recipe import DTYPES as DTYPES
from backend.recipes.recipe import LAYOUTS as LAYOUTS
from backend.recipes.recipe import META as META
from backend.recipes.recipe import RULES as RULES
from backend.recipes.recipe import Part as Part
from backend.recipes.recipe import Recipe as Recipe
from backend.recipes.recipe import check_name as check_name
