(function () {
  "use strict";
  var root = document.documentElement, tip = document.getElementById("tip"), button = document.getElementById("scheme");
  var banner = document.getElementById("stale"), offset = 0, failing = null, raw = {};
  var own = document.currentScript.textContent;

  function parts(doc) { return Array.prototype.slice.call(doc.querySelectorAll("[data-part]")); }
  parts(document).forEach(function (part) { raw[part.dataset.part] = part.outerHTML; });

  function span(s) {
    s = Math.max(0, Math.round(s));
    return s < 90 ? s + " s" : s < 5400 ? Math.round(s / 60) + " min" : s < 129600 ? (s / 3600).toFixed(1) + " h" : (s / 86400).toFixed(1) + " days";
  }
  function now() { return Date.now() / 1000 + offset; }
  function text(node, content) { if (node.textContent !== content) node.textContent = content; }

  // Ages count on by themselves; a page that is no longer written is marked.
  function tick() {
    document.querySelectorAll("[data-ago]").forEach(function (node) {
      if (!node.title) node.title = node.getAttribute("datetime");
      text(node, span(now() - node.dataset.ago) + " ago");
    });
    var age = now() - root.dataset.written, stale = age > root.dataset.staleAfter;
    root.classList.toggle("is-stale", stale);
    if (stale) {
      text(document.getElementById("stale-what"), "This page is out of date.");
      text(document.getElementById("stale-why"), failing
        ? "The monitor's page can't be fetched (" + failing + "). What stands here is " + span(age) + " old."
        : "The monitor wrote it " + span(age) + " ago and has been silent since. What stands here may no longer be true.");
    }
    banner.hidden = !stale;
  }

  // The new document's parts replace those that changed: no reload, no flicker, and what was open or focused stays so.
  function swap(doc) {
    var script = doc.querySelector("script");
    if (!script || script.textContent !== own) { location.reload(); return; }
    var focus = document.activeElement && document.activeElement.id;
    var before = document.getElementById("sentence").textContent, seen = {};
    var main = document.querySelector("main"), previous = null;
    parts(doc).forEach(function (part) {
      var name = part.dataset.part, old = document.querySelector('[data-part="' + name + '"]'), html = part.outerHTML;
      seen[name] = true;
      if (raw[name] !== html) {
        raw[name] = html;
        part = document.adoptNode(part);
        if (old) {
          var open = {};
          old.querySelectorAll("details").forEach(function (d) { open[key(d)] = d.open; });
          part.querySelectorAll("details").forEach(function (d) { if (key(d) in open) d.open = open[key(d)]; });
          old.replaceWith(part);
        } else if (previous) previous.after(part);
        else main.prepend(part);
        old = part;
      }
      if (main.contains(old)) previous = old;
    });
    parts(document).forEach(function (part) { if (!seen[part.dataset.part]) { part.remove(); delete raw[part.dataset.part]; } });
    document.title = doc.title;
    document.getElementById("favicon").href = doc.getElementById("favicon").href;
    ["written", "staleAfter", "interval"].forEach(function (name) { root.dataset[name] = doc.documentElement.dataset[name]; });
    if (focus && document.activeElement === document.body) { var again = document.getElementById(focus); if (again) again.focus({preventScroll: true}); }
    var sentence = document.getElementById("sentence").textContent;
    if (sentence !== before) document.getElementById("announce").textContent = sentence;
    tip.hidden = true;
    tick();
  }
  function key(details) { var inside = details.querySelector("[id]"); return details.id || (inside && inside.id) || ""; }

  function refresh() {
    return fetch(location.pathname, {cache: "no-cache", credentials: "same-origin"}).then(function (answer) {
      if (!answer.ok) throw new Error("HTTP " + answer.status);
      // The server's clock counts, not this device's.
      var date = Date.parse(answer.headers.get("Date") || "");
      if (date) offset = Math.abs(date - Date.now()) > 5000 ? (date - Date.now()) / 1000 : 0;
      return answer.text();
    }).then(function (html) {
      failing = null;
      swap(new DOMParser().parseFromString(html, "text/html"));
    }).catch(function (error) { failing = error.message || "no connection"; tick(); });
  }
  function later() { setTimeout(function () { (document.hidden ? Promise.resolve() : refresh()).then(later); }, Math.max(5, root.dataset.interval / 2) * 1000); }
  document.addEventListener("visibilitychange", function () { if (!document.hidden) refresh(); });

  // A link to a machine opens its details.
  function reveal() {
    var at = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    var around = at && at.closest("details");
    if (around) { around.open = true; around.scrollIntoView({block: "start"}); around.querySelector("summary").focus({preventScroll: true}); }
  }
  addEventListener("hashchange", reveal);
  addEventListener("beforeprint", function () { document.querySelectorAll("details.incident").forEach(function (d) { d.open = true; }); });

  // The note of the day under the pointer.
  document.addEventListener("pointermove", function (event) {
    var bars = event.target.closest && event.target.closest(".bars");
    if (!bars) { tip.hidden = true; return; }
    var box = bars.getBoundingClientRect(), day = Math.min(89, Math.max(0, Math.floor((event.clientX - box.left) / box.width * 90)));
    var date = new Date(Date.parse(bars.dataset.end) - (89 - day) * 864e5);
    var notes = JSON.parse(bars.dataset.notes), note = notes[day] || (Object.keys(notes).length || bars.querySelector(".b-up") ? "no trouble" : "not measured");
    text(tip, date.toLocaleDateString("en-GB", {day: "numeric", month: "short", timeZone: "UTC"}) + ": " + note);
    tip.hidden = false;
    tip.style.left = Math.max(8, Math.min(innerWidth - tip.offsetWidth - 8, event.clientX - tip.offsetWidth / 2)) + scrollX + "px";
    tip.style.top = box.top + scrollY - tip.offsetHeight - 8 + "px";
  });

  // Light, dark, or the device's own scheme.
  var schemes = ["auto", "light", "dark"], chosen = "auto";
  try { chosen = localStorage.getItem("scheme") || "auto"; } catch (e) { /* no storage: the device's scheme */ }
  function paint() {
    if (chosen === "auto") delete root.dataset.scheme; else root.dataset.scheme = chosen;
    button.textContent = "Theme: " + chosen;
  }
  button.hidden = false;
  button.addEventListener("click", function () {
    chosen = schemes[(schemes.indexOf(chosen) + 1) % 3];
    try { localStorage.setItem("scheme", chosen); } catch (e) { /* as above */ }
    paint();
  });
  paint();
  tick();
  reveal();
  setInterval(tick, 1000);
  refresh().then(later);
})();
