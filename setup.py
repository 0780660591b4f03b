"""Metadata of the distribution. Settings of the tools are in pyproject.toml."""

import os
import re
from collections.abc import Sequence

from setuptools import setup

URL = 'https://github.com/michalc/lowhaio'
ROOT = os.path.dirname(os.path.abspath(__file__))


def read(name: str) -> str:
    with open(os.path.join(ROOT, name), encoding='utf-8') as file:
        return file.read()


def description() -> str:
    """README.md for readers that have no repository around it."""
    text = re.sub(r'(!\[[^]]*\]\()(?!https?:|#)', rf'\1{URL}/raw/HEAD/', read('README.md'))
    return re.sub(r'(?<!!)(\[[^]]*\]\()(?!https?:|#)', rf'\1{URL}/blob/HEAD/', text)


def version() -> str:
    # Read, not imported: importing lowhaio needs aiodnsresolver, which a build does not have.
    found = re.search(r"^__version__(?:: \w+)? = '([^']+)'$", read('lowhaio.py'), re.MULTILINE)
    if found is None:
        raise RuntimeError("lowhaio.py has no line like __version__ = '1.2.3'")
    return found[1]


def conformance_files() -> list[tuple[str, Sequence[str]]]:
    """A module cannot carry data: the cases go beside the environment, where importlib.metadata finds them again."""
    return [
        (f'share/lowhaio/{folder}', sorted(f'{folder}/{name}' for name in names if not name.startswith('.')))
        for folder, _, names in sorted(os.walk('fixtures/conformance'))
    ]


# What `import lowhaio_testing` may use beyond lowhaio: each is imported only where it is needed.
TESTING = [
    'hypothesis>=6.100',
    'pytest>=8.0',
    'pytest-asyncio>=0.24',
    'trustme>=1.2',
    'vcrpy>=7.0',
]

DEVELOPMENT = [
    *TESTING,
    # Lint and types
    'mypy>=1.15',
    'ruff>=0.12',
    'types-PyYAML>=6.0',
    'types-setuptools>=77',
    # Tests. The floors of these two are what tests/conftest.py and pyproject.toml use of them.
    'pytest>=9.0',
    'pytest-asyncio>=1.4',
    'anyio>=4.5',
    'coverage>=7.10',
    'h11>=0.16',
    'pyOpenSSL>=24.3',  # a peer that renegotiates, which Python's ssl can't
    'pytest-randomly>=3.16',
    'pytest-recording>=0.13',
    'pytest-socket>=0.7',
    'pytest-xdist>=3.6',
    'uvloop>=0.21; sys_platform != "win32"',
    # The published layers on top of lowhaio, which must run unmodified
    'lowhaio-aws-sigv4>=0.0.4',
    'lowhaio-aws-sigv4-unsigned-payload>=0.0.4',
    'lowhaio-chunked>=0.0.5',
    'lowhaio-redirect>=0.0.1',
    'lowhaio-retry>=0.0.5',
    # Other clients: the cassettes of vcrpy that they write replay here, and ours there
    'aiohttp>=3.11',
    'httpx>=0.28',
    'requests>=2.32',
    'types-requests>=2.32',
    # Release
    'build>=1.2',
    'setuptools>=77',
    'twine>=6.1',
]

setup(
    name='lowhaio',
    version=version(),
    description='A lightweight asyncio HTTP/1.1 client that creates no tasks, and a network for your tests',
    long_description=description(),
    long_description_content_type='text/markdown',
    author='The lowhaio authors',
    url=URL,
    license='MIT',
    license_files=['LICENSE'],
    python_requires='>=3.11',
    install_requires=['aiodnsresolver>=0.0.157'],
    extras_require={'testing': TESTING, 'dev': DEVELOPMENT},
    py_modules=['lowhaio', 'lowhaio_testing', '_lowhaio_pytest'],
    # A distribution of single modules cannot be marked as typed: its types travel as stub packages.
    packages=['lowhaio-stubs', 'lowhaio_testing-stubs'],
    package_data={'lowhaio-stubs': ['*.pyi'], 'lowhaio_testing-stubs': ['*.pyi']},
    data_files=conformance_files(),
    # A module of its own, since pytest imports it in every run, used or not: it has to cost next to nothing.
    entry_points={'pytest11': ['lowhaio = _lowhaio_pytest']},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Framework :: AsyncIO',
        'Framework :: Pytest',
        'Intended Audience :: Developers',
        'Operating System :: MacOS',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Internet :: WWW/HTTP',
        'Topic :: Software Development :: Testing',
        'Typing :: Typed',
    ],
)
