(() => {
  "use strict";
  // All of it is on top of a page that works as links and forms: it keeps the page up to date, and adds keys.
  const $ = (selector, inside = document) => inside.querySelector(selector);
  const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const POLL = 1000;
  let paused = false, busy = false;
  let newest = 0, told = 0, held = 0;  // the newest call of the list, and what the last look told
  let loading = 0;  // counts the addresses that were gone to

  // A page is brought up to date by asking for it anew and taking over its regions, so that the server alone
  // knows how anything looks. What has the focus or is scrolled stays as it is.
  const takeOver = (fresh, names) => {
    const focused = document.activeElement?.id;
    for (const region of $$("[data-region]")) {
      if (names && !names.includes(region.id)) continue;
      const other = fresh.getElementById(region.id);
      if (!other || other.innerHTML === region.innerHTML) continue;
      const top = region.scrollTop;
      region.replaceChildren(...document.importNode(other, true).childNodes);
      region.scrollTop = top;
    }
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };
  const page = async (url) => new DOMParser().parseFromString(await (await fetch(url)).text(), "text/html");
  // This page anew; null where another address was gone to meanwhile, whose content it would overwrite.
  const again = async () => {
    const mine = loading, fresh = await page(location.href);
    return mine === loading && !paused ? fresh : null;
  };
  const panes = () => $("#panes");
  const noteState = (from) => { newest = told = Number($("#panes", from)?.dataset.newest ?? newest); };

  // Another address of the list, without a new page: a filter, a search, a call.
  const go = async (url, { push = true } = {}) => {
    const mine = ++loading;
    const fresh = await page(url);
    if (mine !== loading) return false;
    if (!$("#panes", fresh) || !panes()) { location.href = url; return false; }
    loading += 1;
    if (push) history.pushState(null, "", url);
    document.title = fresh.title;
    document.body.className = fresh.body.className;
    Object.assign(panes().dataset, $("#panes", fresh).dataset);
    $("#search-form")?.replaceChildren(...document.importNode($("#search-form", fresh), true).childNodes);
    takeOver(fresh);
    noteState(document);
    showPill(0);
    return true;
  };

  // New calls: they come in by themselves at the top of the list, and are only announced to who looks at another
  // place, a call that is open or a line that the pointer or a key is at, so that nothing moves below a finger.
  const showPill = (count) => {
    const pill = $("#pill");
    if (!pill) return;
    pill.hidden = !count;
    pill.textContent = count ? `${count.toLocaleString("en")} new call${count === 1 ? "" : "s"}` : "";
  };
  const isFollowing = () => panes().dataset.top && !document.body.classList.contains("has-detail") && $("#rows").scrollTop < 8
    && scrollY < 200 && !$("#rows:hover") && !$("tr.at") && !$("#rows :focus-visible");
  const comeIn = (fresh) => {
    const seen = newest;
    takeOver(fresh, ["throughput", "facets", "bar", "rows"]);
    noteState(fresh);
    for (const row of $$("#rows tr[data-seq]")) row.classList.toggle("fresh", Number(row.dataset.seq) > seen);
  };
  const poll = async () => {
    if (busy || paused || document.hidden) return;
    busy = true;
    const mine = loading;
    try {
      const address = new URL(panes()?.dataset.pulse ?? "/pulse", location.href);
      address.searchParams.set("after", newest);
      const now = await (await fetch(address)).json();
      if (paused || mine !== loading) return;
      const isOther = now.newest < newest || now.held < held;  // it was cleared, or started anew
      const isChanged = now.newest !== told || now.held !== held;
      const isQuiet = !$(":focus[type=search]") && scrollY < 200;
      const isWaitedFor = panes() ? isChanged || (now.new > 0 && isFollowing()) : isQuiet && (isChanged || $("[data-always]"));
      const fresh = isWaitedFor ? await again() : null;
      if (isWaitedFor && !fresh) return;
      if (fresh && !panes()) takeOver(fresh);
      else if (fresh && (isOther || isFollowing())) comeIn(fresh);
      else if (fresh) {
        takeOver(fresh, ["throughput", "facets"]);
        showPill(now.new);
      }
      told = now.newest;
      held = now.held;
      live("");
    } catch {
      live("lost");
    } finally {
      busy = false;
    }
  };
  const live = (state) => {
    const button = $("#pause");
    button.classList.toggle("lost", state === "lost");
    $(".says", button).textContent = paused ? "Paused" : state === "lost" ? "No answer" : "Live";
    button.setAttribute("aria-pressed", String(paused));
  };
  const pause = () => { paused = !paused; live(""); if (!paused) poll(); };

  // Lines, and the one that the keys are at.
  const rows = () => $$("tr[data-seq], .timeline > li[data-seq]");
  const at = () => $("[data-seq].at") ?? $("tr.open");
  const move = (step) => {
    const all = rows(), place = all.indexOf(at()) + step;
    if (!all.length) return;
    if (place >= all.length && $("#older")) { $("#older").click(); return; }
    const next = all[Math.max(0, Math.min(place, all.length - 1))];
    all.forEach((one) => one.classList.toggle("at", one === next));
    const link = $(".cover, a", next);
    link.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    if (document.body.classList.contains("has-detail") && matchMedia("(min-width: 900px)").matches) open(link.href);
  };
  const open = async (url, focus = false) => {
    const seq = new URL(url).searchParams.get("call");
    if (await go(url)) {
      $(`tr[data-seq="${seq}"]`)?.classList.add("at");
      $(".detail").scrollTop = 0;
      if (focus) $("#call-title")?.focus();
      else $(`tr[data-seq="${seq}"] .cover`)?.focus({ preventScroll: true });
    }
  };
  const close = async () => {
    const link = $("#close");
    if (!link) return;
    const seq = new URL(location.href).searchParams.get("call");
    if (await go(link.href)) {
      const row = $(`tr[data-seq="${seq}"]`);
      row?.classList.add("at");
      $(".cover", row ?? undefined)?.focus({ preventScroll: true });
      row?.scrollIntoView({ block: "nearest" });
    }
  };
  const copy = async (button) => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) { copy(button); return; }
    const bar = event.target.closest("[data-before]");
    if (bar) {
      const address = new URL(location.href);
      address.searchParams.set("before", bar.dataset.before);
      address.searchParams.delete("call");
      go(address.href).then((done) => { if (done) $("#rows").scrollTop = 0; });
      return;
    }
    const link = event.target.closest("a[href]");
    if (!link || !panes() || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const address = new URL(link.href);
    if (!link.closest("#panes, #throughput") || address.origin !== location.origin || address.pathname !== location.pathname) return;
    event.preventDefault();
    if (link.id === "close") close();
    else if (address.searchParams.has("call")) {
      for (const row of $$("tr.at")) row.classList.remove("at");
      open(link.href, event.detail === 0);
    } else {
      go(link.href).then((done) => { if (done && !link.closest("#facets")) $("#rows").scrollTop = 0; });
    }
  });
  addEventListener("popstate", () => { if (panes()) go(location.href, { push: false }); else location.reload(); });

  let typing;
  document.addEventListener("input", (event) => {
    if (event.target.id !== "search" || !panes()) return;
    clearTimeout(typing);
    typing = setTimeout(async () => {
      const form = new URLSearchParams(new FormData($("#search-form")));
      if (!form.get("q")) form.delete("q");
      const mine = ++loading, fresh = await page(`/?${form}`);
      if (mine !== loading) return;
      loading += 1;
      history.replaceState(null, "", `/?${form}`);
      Object.assign(panes().dataset, $("#panes", fresh).dataset);
      takeOver(fresh);
      document.body.className = fresh.body.className;
      noteState(document);
    }, 200);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "clear" || event.target.dataset.sure) return;
    event.preventDefault();
    const button = $("button", event.target);
    event.target.dataset.sure = "yes";
    button.textContent = "Clear all?";
    setTimeout(() => { delete event.target.dataset.sure; button.textContent = "Clear"; }, 3000);
  });

  // Keys. Single ones can be switched off, for who speaks to the machine.
  const dialog = $("#shortcuts"), keysOn = $("#keys-on");
  keysOn.checked = localStorage.getItem("keys") !== "off";
  keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));
  $("#keys").addEventListener("click", () => dialog.showModal());
  $("#pause").addEventListener("click", pause);
  const actions = {
    j: () => move(1), k: () => move(-1), p: pause, "?": () => dialog.showModal(),
    "/": () => $("#search")?.focus(), n: () => $("#pill:not([hidden])")?.click(), y: () => $("#copy")?.click(),
    u: () => ($("#open-user") ?? $(".who a", at() ?? document.createElement("i")))?.click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const isField = event.target.matches("input:not([type=checkbox]), textarea, select");
    if (event.key === "Escape") {
      if (isField) event.target.blur();
      else if ($("#close")) close();
      else for (const row of $$(".at[data-seq]")) { row.classList.remove("at"); document.activeElement.blur(); }
      return;
    }
    if (isField || !keysOn.checked) return;
    const tab = /^[0-9]$/.test(event.key) && $$("nav a")[(Number(event.key) || 10) - 1];
    if (tab) tab.click();
    else if (Object.hasOwn(actions, event.key)) { event.preventDefault(); actions[event.key](); }
  });

  // The bar below the pointer tells its values.
  const tip = $("#tip");
  document.addEventListener("pointermove", (event) => {
    const bar = event.target.closest?.("[data-says]");
    tip.hidden = !bar;
    if (!bar) return;
    tip.textContent = bar.dataset.says;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });

  const fold = $(".fold");
  if (fold && matchMedia("(max-width: 899px)").matches) fold.open = false;
  $("nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
  noteState(document);
  // A sandbox that is busy is asked less often.
  const turn = async () => {
    const began = performance.now();
    await poll();
    setTimeout(turn, Math.min(Math.max(POLL, 3 * (performance.now() - began)), 5 * POLL));
  };
  setTimeout(turn, POLL);
})();
