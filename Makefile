# make run · make test · make lab · make app · make rate · make site — each sets up .venv by itself when it is missing.
PROFILE ?= demo
PYTHON ?= python3
BIN := .venv/bin

# Voilà and JupyterLab take 10 MB a message by default: too little for an uploaded photograph.
UPLOADS := tornado_settings={"websocket_max_message_size":268435456}

.PHONY: run test lab app rate site lint clean
run: .venv/ready
	$(BIN)/python -m iqa_lib run --profile $(PROFILE)

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lab: .venv/ready
	$(BIN)/jupyter lab --ip=127.0.0.1 '--ServerApp.$(UPLOADS)' notebooks

app: .venv/ready
	mkdir -p runs/$(PROFILE)
	$(BIN)/papermill --prepare-only -p profile $(PROFILE) notebooks/11_explorer.ipynb runs/$(PROFILE)/app.ipynb
	$(BIN)/voila --Voila.ip=127.0.0.1 --token '--Voila.$(UPLOADS)' runs/$(PROFILE)/app.ipynb

export FOLDER
rate: .venv/ready
	@test -n "$$FOLDER" || { echo 'Name the folder with your photographs: make rate FOLDER=photos/'; exit 2; }
	$(BIN)/python -m iqa_lib.rating.app "$$FOLDER" runs/rate.ipynb
	$(BIN)/voila --Voila.ip=127.0.0.1 --token '--Voila.$(UPLOADS)' runs/rate.ipynb

# README, the pages of docs/ and the profile's executed notebooks, with the links that they have on GitHub.
SITE := build/site-source
site: $(BIN)/sphinx-build run
	rm -rf $(SITE) build/site
	mkdir -p $(SITE)/notebooks $(SITE)/figures $(SITE)/tests/reliability
	cp -R README.md docs $(SITE)
	cp -R figures/readme $(SITE)/figures
	cp tests/reliability/README.md $(SITE)/tests/reliability
	cp runs/$(PROFILE)/notebooks/*.ipynb $(SITE)/notebooks
	$(BIN)/sphinx-build -q -W --keep-going -c docs $(SITE) build/site
	cp build/site/README.html build/site/index.html
	@echo build/site/index.html

$(BIN)/sphinx-build: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[site]'

lint: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This project needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
